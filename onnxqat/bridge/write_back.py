"""From a trained module back to its graph: values change, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxqat.bridge.module import OnnxModule
from onnxqat.bridge.quantizers import Codes
from onnxqat.graph import Graph
from onnxqat.graph.graph import all_tensors
from onnxqat.graph.query import constant_value


def write_back(module: OnnxModule) -> Graph:
    """The module's graph with the module's values: weights, scales, codes in the source's types.

    Names, order, opset and metadata are the source's. What was not trained keeps its bits, so that
    `write_back(to_torch(g)) == g`.
    """
    copy = module.graph.copy()
    changed = {id(source): array for source, array in _changed(module)}
    for source, tensor in zip(all_tensors(module.graph), all_tensors(copy), strict=True):
        if id(source) in changed:
            tensor.values = changed[id(source)]
    return copy


def _changed(module: OnnxModule) -> list[tuple[gs.Constant, NDArray[Any]]]:
    """The initializers whose values are no longer the source's."""
    found = []
    for name, source in module.sources.items():
        tensor = module.get_tensor(name).detach().cpu()
        old = constant_value(source)
        assert old is not None
        codes = module.codes.get(name)
        new = _array(tensor, old) if codes is None else _codes(tensor, codes, old, module)
        if new.tobytes() != old.tobytes():
            found.append((source, new))
    return found


def _array(tensor: Tensor, old: NDArray[Any]) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        bits: NDArray[Any] = tensor.contiguous().view(torch.uint16).numpy()
        return bits.view(old.dtype).reshape(old.shape)
    array: NDArray[Any] = tensor.numpy().astype(old.dtype).reshape(old.shape)
    return array


def _codes(tensor: Tensor, codes: Codes, old: NDArray[Any], module: OnnxModule) -> NDArray[Any]:
    """The codes of a weight; the file's own where neither weight nor scale has changed.

    float32 does not hold every int32 code, so computing them again could move some.
    """
    if codes.is_unchanged(tensor):
        return old
    computed = codes.module.codes(tensor.to(codes.module.scale.device)).cpu().to(torch.float64)
    limits = (codes.module.qmin + codes.zero_point, codes.module.qmax + codes.zero_point)
    whole = np.clip(computed.numpy() + codes.zero_point, *limits)
    stored: NDArray[Any] = whole.astype(np.int64).astype(old.dtype).reshape(old.shape)
    return stored
