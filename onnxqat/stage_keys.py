"""What a stage's result hangs on, in one digest: with the same one it need not be made again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnxqat.config_file import DataSource
from onnxqat.version import __version__


def stage_key(*parts: object, sources: Sequence[DataSource | None]) -> str:
    """A digest of settings and digests, of this version, and of when the data was last written.

    A module on the import path is known by its name alone: what it yields may change unseen.
    """
    stamps = [list(_stamps(source)) for source in sources]
    return hashlib.sha256(repr((__version__, parts, stamps)).encode()).hexdigest()


def _stamps(source: DataSource | None) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of writing of each file of the data."""
    if source is None:
        return
    root = Path(source.source.partition(":")[0])
    for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if path.is_file():
            found = path.stat()
            yield str(path.relative_to(root.parent)), found.st_size, found.st_mtime_ns
