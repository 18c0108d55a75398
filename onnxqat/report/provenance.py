"""Where a run comes from: hashes of its files, versions of its programs, its settings."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from onnxqat.core.provenance import FileRecord, Provenance, Setting, Version
from onnxqat.version import __version__

if TYPE_CHECKING:
    from onnxqat.recipe import Recipe  # which imports torch

PACKAGES = (
    "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu", "polygraphy", "torch",
    "tensorrt", "tensorrt-rtx",
)  # fmt: skip
"""What takes part in a result. A package that is not installed is left out."""

_CHUNK = 1 << 20


def provenance(recipe: Recipe, made: Mapping[str, Path]) -> Provenance:
    """Where a run comes from.

    Args:
        recipe: The recipe, with absolute paths.
        made: The files that the run made, by role.
    """
    files = {"model": recipe.model, **_data_files(recipe), **made}
    return Provenance(
        files=tuple(_record(role, path) for role, path in files.items() if path.is_file()),
        versions=tuple(_versions()),
        settings=tuple(_settings(recipe)),
    )


def provenance_of(model: Path) -> Provenance:
    """The hash of one model, and the versions of what looked at it."""
    files = (_record("model", model),) if model.is_file() else ()
    return Provenance(files=files, versions=tuple(_versions()))


def _data_files(recipe: Recipe) -> dict[str, Path]:
    """The file of each role; a folder or a module on the import path is no file."""
    roles = {role.name: getattr(recipe.data, role.name) for role in fields(recipe.data)}
    return {
        f"{role} data": Path(source.source.partition(":")[0])
        for role, source in roles.items()
        if source is not None
    }


def _record(role: str, path: Path) -> FileRecord:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return FileRecord(role, path.name, path.stat().st_size, digest.hexdigest())


def _versions() -> Iterator[Version]:
    yield Version("onnxqat", __version__)
    yield Version("python", platform.python_version())
    for package in PACKAGES:
        found = _version(package)
        if found is not None:
            yield Version(package, found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _settings(value: Any, prefix: str = "") -> Iterator[Setting]:
    """Every key of a config, those of its sections behind dots."""
    for entry in fields(value):
        key, part = f"{prefix}{entry.name}", getattr(value, entry.name)
        if is_dataclass(part):
            yield from _settings(part, f"{key}.")
        else:
            yield Setting(key, _text(part, is_path=entry.name == "source"))


def _text(value: Any, *, is_path: bool = False) -> str:
    """A value as TOML would have it, more or less; paths without their folders."""
    if isinstance(value, PurePath) or is_path:
        return PurePath(value).name
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_text(item)}" for key, item in value.items()) or "–"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(_text(item) for item in value) or "–"
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None else str(value)
