"""TOML files of the user, read into the frozen configs of the stages."""

from __future__ import annotations

import sys
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from onnxqat.core.errors import ConfigError
from onnxqat.data.config import DataConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DataSource(DataConfig):
    """Where samples come from, and how they become inputs."""

    source: str
    """A .npz file, a folder, SCRIPT.py[:FUNCTION] or MODULE:CALLABLE."""

    def at_home(self, home: Path) -> DataSource:
        """A path is meant from the file that names it; a module on the import path stays."""
        place = self.source.partition(":")[0]
        is_path = Path(place).suffix in (".npz", ".py") or (home / place).exists()
        return replace(self, source=str(home / self.source)) if is_path else self


def read_source(data: str) -> DataSource:
    """What `--data` names: a .toml file that holds a DataSource, or the source itself.

    Raises:
        ConfigError: As for `read_config`.
    """
    path = Path(data)
    if path.suffix != ".toml":
        return DataSource(source=data)
    return read_config(DataSource, path).at_home(path.resolve().parent)


def read_config(kind: type[T], path: Path) -> T:
    """The dataclass of type `kind` that a TOML file holds.

    Raises:
        ConfigError: The file is missing, is not TOML, or has an unknown, missing or wrong key.
    """
    return _validated(kind, _read_toml(path), path)


def read_table(kind: type[T], path: Path, *keys: str) -> T | None:
    """The dataclass that one table of a TOML file holds; None if the file has no such table.

    Raises:
        ConfigError: As for `read_config`.
    """
    table: Any = _read_toml(path)
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return None if table is None else _validated(kind, table, path)


SETTINGS = {"onnxqat.toml": (), "pyproject.toml": ("tool", "onnxqat")}
"""Files that hold the user's settings, and the table in which they do."""


def find_settings(kind: type[T], command: str, *, start: Path) -> T | None:
    """The settings of a command: those of the nearest folder, from `start` upwards, that has any.

    `[audit]` in onnxqat.toml, or `[tool.onnxqat.audit]` in pyproject.toml.

    Raises:
        ConfigError: As for `read_config`.
    """
    for folder in (start, *start.parents):
        for name, keys in SETTINGS.items():
            file = folder / name
            found = read_table(kind, file, *keys, command) if file.is_file() else None
            if found is not None:
                return found
    return None


def read_settings(kind: type[T], command: str, path: Path) -> T:
    """The settings of a command in a file that the user named.

    Raises:
        ConfigError: As for `read_config`, and where the file says nothing about the command.
    """
    keys = SETTINGS.get(path.name, ())
    found = read_table(kind, path, *keys, command)
    if found is None:
        table = ".".join((*keys, command))
        raise ConfigError(f"{path} has no table [{table}]", fix=f"write [{table}] above its keys")
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", fix="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}", fix="mend that line") from error


def _validated(kind: type[T], value: dict[str, Any], path: Path) -> T:
    from pydantic import TypeAdapter, ValidationError

    for config in _dataclasses_in(kind):
        # Without this pydantic passes over a misspelt key in silence.
        config.__pydantic_config__ = {"extra": "forbid"}
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ConfigError(
            _complaint(error, path), fix="see the recipe keys in the README"
        ) from None


def _complaint(error: ValidationError, path: Path) -> str:
    lines = [
        f"  {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()
    ]
    return "\n".join([f"{path} does not fit:", *lines])


def _dataclasses_in(kind: Any) -> list[Any]:
    """A dataclass and all dataclasses in its fields."""
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return [found for part in get_args(kind) for found in _dataclasses_in(part)]
    parts = get_type_hints(kind).values()
    return [kind, *(found for part in parts for found in _dataclasses_in(part))]
