"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnxqat.core.errors import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends well.

    A reader sees the old file or the whole new one; a failed block leaves nothing behind.

    Raises:
        ConfigError: The folder does not exist, or cannot be written.
    """
    temporary = _reserve(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, inputs: Sequence[Path] = ()) -> None:
    """Fail now instead of after an hour's work if `path` could not be written.

    Args:
        path: The file that will be written.
        inputs: The user's files, which are never overwritten.

    Raises:
        ConfigError: The folder does not exist, cannot be written, or `path` is one of `inputs`.
    """
    if path.exists() and any(given.exists() and path.samefile(given) for given in inputs):
        raise ConfigError(f"{path} is an input, and inputs are not overwritten", fix="rename it")
    _reserve(path).unlink()


def make_folder(path: Path) -> Path:
    """The folder, made with its parents where it was missing, and writable.

    Raises:
        ConfigError: It cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the output folder {path}: {error.strerror}",
            fix="choose a folder that you may write with -o/--out",
        ) from error
    check_writable(path / "probe")
    return path


def _reserve(path: Path) -> Path:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", fix="give the name of a file")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}",
            fix="choose an existing folder that you may write",
        ) from error
    os.fchmod(handle, 0o666 & ~_umask())  # mkstemp makes private files; the user's own are not
    os.close(handle)
    return Path(name)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
