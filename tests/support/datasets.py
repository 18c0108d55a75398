"""Small data sources on disk, whose every value tells its sample."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxqat.core.signature import InputSpec

IMAGE = InputSpec("x", "float32", ("batch", 2, 3))


def numbered(samples: int, *, start: int = 0) -> NDArray[np.float32]:
    """[samples, 2, 3], where every value of sample i is start + i."""
    numbers = np.arange(start, start + samples, dtype=np.float32)
    return np.broadcast_to(numbers[:, None, None], (samples, 2, 3)).copy()


def write_npz(path: Path, *, compression: int = zipfile.ZIP_STORED, **arrays: NDArray[Any]) -> Path:
    """An .npz file with a compression of choice; numpy itself writes only two of them."""
    return write_members(path, arrays, compression)


def write_members(path: Path, arrays: Mapping[str, NDArray[Any]], compression: int) -> Path:
    """As `write_npz`, for names that are no Python identifiers."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return path


def write_script(path: Path, body: str) -> Path:
    """A data loader script."""
    path.write_text(f"import numpy as np\n\n{body}\n", encoding="utf-8")
    return path
