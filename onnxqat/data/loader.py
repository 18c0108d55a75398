"""Finds the loader that a user names: a script, or a callable in a module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxqat.core.errors import DataError
from onnxqat.data.stream import Loader

DEFAULT_FUNCTION = "load_data"
"""The function that Polygraphy looks for in a data loader script."""


def script_loader(source: str) -> Loader:
    """The loader in `script.py` (its `load_data`) or `script.py:function`.

    Raises:
        DataError: There is no such script or function, or the script fails.
    """
    path, _, function = source.partition(".py")
    script = Path(f"{path}.py")
    if not script.is_file():
        raise DataError(f"there is no script '{script}'", fix="check --data")
    with _importable(script.parent):
        module = _imported(lambda: _run_script(script), source)
    return _callable(module, function.removeprefix(":") or DEFAULT_FUNCTION, source)


def module_loader(source: str) -> Loader:
    """The loader `module:callable`; modules in the current folder are found as well.

    Raises:
        DataError: There is no such module or callable, or the module fails.
    """
    name, _, function = source.partition(":")
    with _importable(Path.cwd()):
        module = _imported(lambda: importlib.import_module(name), source)
    return _callable(module, function, source)


def _run_script(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{script}' is no Python script")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _imported(load: Callable[[], ModuleType], source: str) -> ModuleType:
    try:
        return load()
    except Exception as error:
        raise DataError(
            f"the data loader cannot be imported: {type(error).__name__}: {error}",
            at=f"data '{source}'",
            fix="run the script by itself, and correct it",
        ) from error


def _callable(module: ModuleType, function: str, source: str) -> Loader:
    found: Any = getattr(module, function, None)
    if not callable(found):
        names = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise DataError(
            f"there is no function '{function}' to load data with",
            at=f"data '{source}'",
            fix=f"name one after a colon; there are {', '.join(names) or 'none'}",
        )
    loader: Loader = found
    return loader


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Imports find the folder's modules, as when Python runs a script in it."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
