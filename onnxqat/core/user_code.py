"""A callable of the user's, named `module:callable` or `file.py:callable`."""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxqat.core.errors import ConfigError, OnnxqatError


def load_callable(name: str) -> Callable[..., Any]:
    """Import it.

    Raises:
        ConfigError: The module or file is not there, fails, or has no such callable.
    """
    source, _, attribute = name.rpartition(":")
    try:
        module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    except OnnxqatError:
        raise
    except Exception as error:
        raise ConfigError(
            f"'{source}' cannot be imported: {type(error).__name__}: {error}",
            at=place_of_failure(error),
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ConfigError(f"'{source}' has no callable '{attribute}'", at=f"'{name}'")
    return function  # type: ignore[no-any-return]  # whatever the user wrote


def place_of_failure(error: Exception) -> str:
    """File and line where the exception was raised."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"


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
