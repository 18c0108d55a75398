"""A callable of the user's, named `module:callable` or `file.py:callable`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxqat.core.errors import ConfigError


def load_callable(name: str) -> Callable[..., Any]:
    """Import it.

    Raises:
        ConfigError: The module or file is not there, or has no such callable.
    """
    source, _, attribute = name.rpartition(":")
    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ConfigError(f"'{source}' has no callable '{attribute}'", at=f"'{name}'")
    return function  # type: ignore[no-any-return]  # whatever the user wrote


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"cannot import '{name}': {error}", fix="give its file, as folder/file.py:callable"
        ) from error


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"there is no Python file '{path}'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
