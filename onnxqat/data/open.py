"""Opens whatever the user named as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxqat.core.errors import DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data.batch import Dataset
from onnxqat.data.config import DataConfig
from onnxqat.data.images import ImageSource, find_images
from onnxqat.data.indexed import IndexedDataset, Source
from onnxqat.data.loader import module_loader, script_loader
from onnxqat.data.npz import NpzSource, ShardSource
from onnxqat.data.stream import StreamDataset

_DEFAULTS = DataConfig()


def open_data(source: str, inputs: Sequence[InputSpec], config: DataConfig = _DEFAULTS) -> Dataset:
    """The dataset that a source names, checked against the model's inputs as it is read.

    Args:
        source: An .npz file, a folder of .npz files or of images, a data loader script (`script.py`
            or `script.py:function`, Polygraphy's convention), or `module:callable`.
        inputs: What the model is fed.
        config: How arrays become inputs.

    Raises:
        DataError: The source does not exist, is none of these, or does not fit the model.
    """
    path = Path(source)
    if path.is_dir():
        return IndexedDataset(_folder(path, inputs, config), inputs, config)
    if path.suffix == ".npz":
        return IndexedDataset(NpzSource(path, inputs, config), inputs, config)
    if path.suffix == ".py" or ".py:" in source:
        return StreamDataset(script_loader(source), inputs, config, name=f"script '{source}'")
    if ":" in source and not path.exists():
        return StreamDataset(module_loader(source), inputs, config, name=f"loader '{source}'")
    raise DataError(
        f"'{source}' is no data" if path.exists() else f"there is no data '{source}'",
        fix="name an .npz file, a folder of .npz files or images, a script.py[:function], or"
        " module:callable",
    )


def _folder(path: Path, inputs: Sequence[InputSpec], config: DataConfig) -> Source:
    if next(path.glob("*.npz"), None) is not None:
        return ShardSource(path, inputs, config)
    if find_images(path):
        return ImageSource(path, inputs, config)
    raise DataError(
        f"the folder '{path}' holds neither .npz files nor images",
        fix="name the folder that the files lie in",
    )
