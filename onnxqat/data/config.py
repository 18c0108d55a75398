"""What the user says about the data: plain types, so that a recipe can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxqat.core.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """How the arrays of a data source become the inputs of a model.

    An input value is `(x / divide_by - mean) / std`, where x is the value in the file. Images of
    8 bits are only accepted for a float input when `divide_by`, `mean` or `std` is given:
    `divide_by = 1` feeds 0..255 as they are.
    """

    arrays: Mapping[str, str] = field(default_factory=dict)
    """ONNX input name -> name of the array in the .npz, where the two differ."""
    labels: str | None = None
    """Name of the label array; None takes `labels` if there is one."""
    start: int = 0
    """Leave out this many samples at the beginning."""
    samples: int | None = None
    """Take at most this many samples from `start` on."""
    divide_by: float | None = None
    mean: tuple[float, ...] = ()
    """One value, or one for each channel, subtracted after the division."""
    std: tuple[float, ...] = ()
    """One value, or one for each channel, that divides last."""
    normalize: tuple[str, ...] = ()
    """The inputs that are normalized; may be left out for a model with one input."""
    layout: Literal["nchw", "nhwc"] | None = None
    """Where the model has its channels; None reads it off the shape of the input."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """The order that the model wants; for image files."""
    image_size: tuple[int, int] | None = None
    """Height and width; None reads them off the shape of the input. For image files."""
    resize_short: int | None = None
    """Resize the short side to this many pixels, then crop the centre to `image_size`; None
    stretches the whole image to `image_size`. For image files."""
    workers: int = 0
    """Threads that read ahead; 0 reads in the thread that asks."""

    def __post_init__(self) -> None:
        for name in ("start", "workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="set 0 or more")
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"samples is {self.samples}", fix="take at least one sample")
        if self.divide_by == 0 or 0 in self.std:
            raise ConfigError("divide_by and std must not be 0", fix="leave out what is not wanted")

    @property
    def has_normalization(self) -> bool:
        """Whether values are changed, or said to be right as they are."""
        return self.divide_by is not None or bool(self.mean) or bool(self.std)
