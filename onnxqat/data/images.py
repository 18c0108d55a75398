"""A folder of image files as numbered items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from onnxqat.core.errors import DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data.batch import Array
from onnxqat.data.config import DataConfig
from onnxqat.data.indexed import Indices, Rows
from onnxqat.data.normalize import find_channel_axis, shape_text

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

_MODES = {1: "L", 3: "RGB"}
"""Pillow's name for images of so many channels."""


class ImageSource:
    """The images of a folder, in the order of their paths.

    With subfolders, each subfolder is a class: the label of an image is the position of its
    subfolder among the sorted names.
    """

    feed_samples = None

    def __init__(self, folder: Path, inputs: Sequence[InputSpec], config: DataConfig) -> None:
        self._paths = find_images(folder)
        self._spec, self._config = _image_input(inputs), config
        self._labels = _class_labels(folder, self._paths)
        self._format = _ImageFormat(self._spec, config)
        self.count = len(self._paths)

    @property
    def has_labels(self) -> bool:
        """Whether the images lie in class folders."""
        return self._labels is not None

    def shuffled(self, items: Indices, generator: np.random.Generator) -> Indices:
        """The items in a random order."""
        return generator.permutation(items)

    def take(self, items: Indices) -> Rows:
        """The images, decoded and resized: uint8, in the model's layout."""
        images = np.stack([self._format.read(self._paths[i]) for i in items])
        labels = None if self._labels is None else self._labels[items]
        return Rows({self._spec.name: images}, labels)


def find_images(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _class_labels(folder: Path, paths: list[Path]) -> Array | None:
    parents = [path.relative_to(folder).parts[:-1] for path in paths]
    if not any(parents):
        return None
    if not all(parents):
        raise DataError(
            "some images lie in class folders and some beside them",
            at=f"folder '{folder}'",
            fix="put all images into class folders, or none",
        )
    classes = sorted({parts[0] for parts in parents})
    return np.array([classes.index(parts[0]) for parts in parents], np.int64)


def _image_input(inputs: Sequence[InputSpec]) -> InputSpec:
    if len(inputs) == 1 and len(inputs[0].shape) == 4:
        return inputs[0]
    told = ", ".join(f"'{spec.name}' {shape_text(spec)}" for spec in inputs)
    raise DataError(
        f"a folder of images feeds one input of four dimensions; the model takes {told}",
        fix="use an .npz file or a data loader script",
    )


class _ImageFormat:
    """How an image file becomes the array of one sample."""

    def __init__(self, spec: InputSpec, config: DataConfig) -> None:
        self._config = config
        self._channels, self._axis = _channels(spec, config)
        rows, columns = [axis for axis in (1, 2, 3) if axis != self._axis]
        self._height, self._width = config.image_size or (
            _fixed_dim(spec, rows),
            _fixed_dim(spec, columns),
        )
        self._pillow = _import_pillow()

    def read(self, path: Path) -> Array:
        try:
            with self._pillow.open(path) as image:
                fitted = self._fit(image.convert(_MODES[self._channels]))
        except (OSError, ValueError) as error:
            raise DataError(
                f"the image cannot be read: {error}", at=f"file '{path}'", fix="remove the file"
            ) from error
        pixels = np.asarray(fitted).reshape(self._height, self._width, self._channels)
        if self._config.channel_order == "bgr":
            pixels = pixels[:, :, ::-1]
        return pixels.transpose(2, 0, 1) if self._axis == 1 else pixels

    def _fit(self, image: Image.Image) -> Image.Image:
        """The image at the size that the model takes."""
        bilinear = self._pillow.Resampling.BILINEAR
        short = self._config.resize_short
        if short is None:
            return image.resize((self._width, self._height), bilinear)
        ratio = short / min(image.size)
        image = image.resize((round(image.width * ratio), round(image.height * ratio)), bilinear)
        left, top = (image.width - self._width) // 2, (image.height - self._height) // 2
        return image.crop((left, top, left + self._width, top + self._height))


def _channels(spec: InputSpec, config: DataConfig) -> tuple[int, int]:
    """The number of channels, 1 or 3, and their axis."""
    for channels in (3, 1):
        axis = find_channel_axis(spec, channels, config)
        if axis is not None:
            return channels, axis
    raise DataError(
        f"input '{spec.name}' {shape_text(spec)} takes neither grey nor colour images",
        fix="use an .npz file or a data loader script",
    )


def _fixed_dim(spec: InputSpec, axis: int) -> int:
    dim = spec.shape[axis]
    if isinstance(dim, int):
        return dim
    raise DataError(
        f"input '{spec.name}' {shape_text(spec)} does not say how large its images are",
        fix="set image_size to [height, width]",
    )


def _import_pillow() -> ModuleType:
    """Pillow's Image module.

    Raises:
        DataError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "reading image files needs Pillow", fix="pip install 'onnxqat[vision]'"
        ) from error
    return Image
