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

LARGEST_WITHOUT_WEIGHTS = 100 << 20
"""Bytes of a file that is looked into: what is larger holds its weights itself."""

_CHUNK = 1 << 20


def provenance(recipe: Recipe, made: Mapping[str, Path]) -> Provenance:
    """Where a run comes from.

    Args:
        recipe: The recipe, with absolute paths.
        made: The files that the run made, by role.
    """
    files = {"model": recipe.model, **_data_files(recipe), **made}
    return Provenance(
        files=tuple(_records(files)),
        versions=tuple(_versions()),
        settings=tuple(_settings(recipe)),
    )


def provenance_of(model: Path) -> Provenance:
    """The hash of one model, and the versions of what looked at it."""
    return Provenance(files=tuple(_records({"model": model})), versions=tuple(_versions()))


def _data_files(recipe: Recipe) -> dict[str, Path]:
    """The file of each role; a folder or a module on the import path is no file."""
    roles = {role.name: getattr(recipe.data, role.name) for role in fields(recipe.data)}
    return {
        f"{role} data": Path(source.source.partition(":")[0])
        for role, source in roles.items()
        if source is not None
    }


def _records(files: Mapping[str, Path]) -> Iterator[FileRecord]:
    """The files that are there, and behind each model the files that hold its weights."""
    for role, path in files.items():
        if path.is_file():
            yield _record(role, path)
            yield from (_record(f"{role} weights", weights) for weights in _weights(path))


def _weights(model: Path) -> list[Path]:
    """The files beside a model in which it keeps weights."""
    if model.suffix != ".onnx" or model.stat().st_size > LARGEST_WITHOUT_WEIGHTS:
        return []
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    names = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    paths = ((model.parent / name).resolve() for name in sorted(names))
    home = model.parent.resolve()
    return [path for path in paths if path.is_relative_to(home) and path.is_file()]


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
