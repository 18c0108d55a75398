"""Frozen dataclasses to and from JSON values, driven by their own type hints.

`decode(type(x), encode(x)) == x` for every type in `core`. Unknown and missing keys are errors.
"""

from __future__ import annotations

import dataclasses
import math
import types
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from onnxqat.core.errors import ConfigError

T = TypeVar("T")
_NOT_FINITE = ("inf", "-inf", "nan")


def encode(value: Any) -> Any:
    """A JSON value: dataclasses become objects, tuples arrays, enums their values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    return value


def decode(kind: type[T], value: Any) -> T:
    """The value of type `kind` that `encode` made this JSON value of.

    Raises:
        ConfigError: The JSON value does not have the shape of `kind`.
    """
    decoded: T = _decode(kind, value)
    return decoded


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Field name -> its type and whether it must be present."""
    hints = get_type_hints(kind)
    return {
        f.name: (hints[f.name], f.default is dataclasses.MISSING) for f in dataclasses.fields(kind)
    }


def _decode(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value)
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(get_args(kind)[0], item) for item in value)
    # Python 3.10 calls tuple[int, ...] a type, too, and then cannot ask it.
    if origin is None and isinstance(kind, type):
        return _decode_plain(kind, value)
    raise ConfigError(f"expected {kind}, got {value!r}")


def _decode_plain(kind: type, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _decode_dataclass(kind, value)
    if issubclass(kind, Enum):
        return _decode_enum(kind, value)
    if kind is float and (value in _NOT_FINITE or _is_int(value)):
        return float(value)
    if isinstance(value, kind):
        return value
    raise ConfigError(f"expected {kind}, got {value!r}")


def _decode_enum(kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError as error:
        known = [member.value for member in kind]
        raise ConfigError(f"{value!r} is no {kind.__name__}, which is one of {known}") from error


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _decode_dataclass(kind: type, value: dict[str, Any]) -> Any:
    fields = _fields(kind)
    unknown = sorted(set(value) - set(fields))
    missing = sorted(name for name, (_, must) in fields.items() if must and name not in value)
    if unknown or missing:
        raise ConfigError(f"not a {kind.__name__}: unknown keys {unknown}, missing keys {missing}")
    return kind(**{name: _decode(fields[name][0], item) for name, item in value.items()})


def _decode_union(kinds: tuple[Any, ...], value: Any) -> Any:
    """The first member that fits; members of a union in `core` differ in their keys."""
    for kind in kinds:
        if kind is types.NoneType:
            if value is None:
                return None
            continue
        try:
            return _decode(kind, value)
        except (ConfigError, ValueError):
            continue
    raise ConfigError(f"expected one of {kinds}, got {value!r}")
