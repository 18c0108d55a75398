"""Values of a file to values of an input: normalization, cast, and the checks on each batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxqat.core.errors import ConfigError, DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data.batch import Array
from onnxqat.data.config import DataConfig


class InputReader:
    """Turns the arrays that a source yields into arrays that the model takes."""

    def __init__(self, inputs: Sequence[InputSpec], config: DataConfig) -> None:
        self._specs = {spec.name: spec for spec in inputs}
        self._config = config
        self._normalized = _normalized_inputs(inputs, config)

    def __call__(self, arrays: dict[str, Array], batch: int) -> dict[str, Array]:
        """Arrays by input name, normalized, cast and checked.

        Args:
            arrays: By input name, shaped like the inputs.
            batch: Number of the batch, for messages.

        Raises:
            DataError: A name, shape, dtype or value is not what the model takes.
        """
        self._check_names(arrays, batch)
        return {name: self._read(spec, arrays[name], batch) for name, spec in self._specs.items()}

    def _read(self, spec: InputSpec, array: Array, batch: int) -> Array:
        check_shape(spec, array.shape, f"batch {batch}")
        if spec.name in self._normalized:
            array = _normalize(array, spec, self._config)
        array = cast(array, spec, f"batch {batch}")
        _check_finite(array, spec, batch)
        return array

    def _check_names(self, arrays: dict[str, Array], batch: int) -> None:
        missing = sorted(set(self._specs) - set(arrays))
        unknown = sorted(set(arrays) - set(self._specs))
        if missing or unknown:
            raise names_error(missing, unknown, wanted=self._specs, at=f"batch {batch}")


def names_error(
    missing: Sequence[str], unknown: Sequence[str], *, wanted: Iterable[str], at: str
) -> DataError:
    """The error for data that does not name the model's inputs."""
    parts = [f"no array for input {_quoted(missing)}"] if missing else []
    parts += [f"{_quoted(unknown)} is no input of the model"] if unknown else []
    return DataError(
        "; ".join(parts),
        at=at,
        fix=f"name the arrays as the inputs, {_quoted(wanted)}, or map them with `arrays`",
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def check_shape(spec: InputSpec, shape: tuple[int, ...], at: str) -> None:
    """Raise a DataError unless a shape fits the input's fixed dimensions."""
    fits = len(shape) == len(spec.shape) and all(
        have == want for have, want in zip(shape, spec.shape, strict=True) if isinstance(want, int)
    )
    if not fits:
        raise DataError(
            f"input '{spec.name}' is given shape {list(shape)}, expected {shape_text(spec)}",
            at=at,
            fix="give arrays of the shape that the model takes",
        )


def shape_text(spec: InputSpec) -> str:
    """The shape that an input takes, as `[batch, 3, 32, 32]`."""
    return f"[{', '.join('?' if dim is None else str(dim) for dim in spec.shape)}]"


def cast(array: Array, spec: InputSpec, at: str) -> Array:
    """The array in the input's dtype, where no value changes by that; else a DataError."""
    wanted = np.dtype(spec.dtype)
    if array.dtype == wanted:
        return array
    is_image = array.dtype.kind in "ui" and array.dtype.itemsize == 1 and wanted.kind == "f"
    if is_image or not np.can_cast(array.dtype, wanted, "safe"):
        raise DataError(
            f"input '{spec.name}' is given {array.dtype}, expected {spec.dtype}",
            at=at,
            fix="say how 8-bit values become floats: divide_by (1 keeps them), mean, std"
            if is_image
            else f"convert the array to {spec.dtype}",
        )
    return array.astype(wanted)


def _check_finite(array: Array, spec: InputSpec, batch: int) -> None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    count = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
    raise DataError(
        f"input '{spec.name}' has {count} values that are NaN or infinite, expected finite numbers",
        at=f"batch {batch}",
        fix="clean the data, or leave these samples out",
    )


def _normalized_inputs(inputs: Sequence[InputSpec], config: DataConfig) -> frozenset[str]:
    if not config.has_normalization:
        return frozenset()
    names = [spec.name for spec in inputs]
    unknown = sorted(set(config.normalize) - set(names))
    if unknown:
        raise ConfigError(
            f"normalize names {_quoted(unknown)}, which the model does not have",
            fix=f"its inputs are {_quoted(names)}",
        )
    if not config.normalize and len(names) > 1:
        raise ConfigError(
            f"the model has {len(names)} inputs, and it is not said which ones are normalized",
            fix=f"set normalize to some of {_quoted(names)}",
        )
    return frozenset(config.normalize or names)


def _normalize(array: Array, spec: InputSpec, config: DataConfig) -> Array:
    """`(x / divide_by - mean) / std` in float32, in the dtype of the input."""
    values = array.astype(np.float32)
    if config.divide_by not in (None, 1):
        values /= np.float32(config.divide_by)
    if config.mean:
        values -= _by_channel(config.mean, spec, config)
    if config.std:
        values /= _by_channel(config.std, spec, config)
    return values.astype(spec.dtype, copy=False)


def _by_channel(
    values: tuple[float, ...], spec: InputSpec, config: DataConfig
) -> NDArray[np.float32]:
    per_channel = np.asarray(values, np.float32)
    if len(values) == 1:
        return per_channel
    shape = [1] * len(spec.shape)
    shape[channel_axis(spec, len(values), config)] = len(values)
    return per_channel.reshape(shape)


def channel_axis(spec: InputSpec, channels: int, config: DataConfig) -> int:
    """The axis of an input that holds its channels: 1 or the last one.

    Raises:
        ConfigError: No such axis has that many channels.
    """
    axis = find_channel_axis(spec, channels, config)
    if axis is not None:
        return axis
    raise ConfigError(
        f"input '{spec.name}' {shape_text(spec)} has no axis of {channels} channels",
        fix="give one value, or one for each channel, of mean and std; check layout",
    )


def find_channel_axis(spec: InputSpec, channels: int, config: DataConfig) -> int | None:
    """The axis of an input that holds its channels, or None if none has that many."""
    last = len(spec.shape) - 1
    candidates = {"nchw": (1,), "nhwc": (last,), None: (1, last)}[config.layout]
    fits = (a for a in candidates if 0 < a <= last and spec.shape[a] in (channels, None))
    return next(fits, None)
