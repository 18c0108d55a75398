"""From a trained module back to its graph: values change, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxqat.bridge.module import OnnxModule
from onnxqat.bridge.quantizers import Codes
from onnxqat.bridge.sources import Source, with_values
from onnxqat.graph import Graph


def write_back(module: OnnxModule) -> Graph:
    """The module's graph with the module's values: weights, scales, codes in the source's types.

    Names, order and opset are the source's, and so is the metadata but for the module's notes. What
    was not trained keeps its bits, so that `write_back(to_torch(g)) == g`.
    """
    graph = with_values(module.graph, list(_changes(module)))
    graph.metadata.update(module.notes)
    return graph


def _changes(module: OnnxModule) -> Iterator[tuple[Source, NDArray[Any]]]:
    """The constants whose values are no longer the source's."""
    for name, sources in module.sources.items():
        tensor = module.get_tensor(name).detach().cpu()
        codes = module.codes.get(name)
        for source in sources:
            old = source.value
            new = _array(tensor, old) if codes is None else _codes(tensor, codes, old)
            if new.tobytes() != old.tobytes():
                yield source, new


def _array(tensor: Tensor, old: NDArray[Any]) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        bits: NDArray[Any] = tensor.contiguous().view(torch.uint16).numpy()
        return bits.view(old.dtype).reshape(old.shape)
    array: NDArray[Any] = tensor.numpy().astype(old.dtype).reshape(old.shape)
    return array


def _codes(tensor: Tensor, codes: Codes, old: NDArray[Any]) -> NDArray[Any]:
    """The codes of a weight; the file's own where neither weight nor scale has changed.

    float32 does not hold every int32 code, so computing them again could move some.
    """
    if codes.is_unchanged(tensor):
        return old
    computed = codes.module.codes(tensor.to(codes.module.scale.device)).cpu().to(torch.float64)
    limits = (codes.module.qmin + codes.zero_point, codes.module.qmax + codes.zero_point)
    whole = np.clip(computed.numpy() + codes.zero_point, *limits)
    exact = whole.astype(np.float32 if codes.module.is_float8 else np.int64)
    stored: NDArray[Any] = exact.astype(old.dtype).reshape(old.shape)
    return stored
