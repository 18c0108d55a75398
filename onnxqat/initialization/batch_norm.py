"""Statistics of the BatchNormalizations that stay in the graph, as quantization has them.

What `prepare` can fold into a Conv is gone; the others (before a Conv, as in pre-activation ResNets
and DenseNets) normalize by the mean and the variance that training saw in float. Quantization moves
both, so they are estimated again on the quantized network, from the first to the last, each seeing
what those before it now make.

A few samples say little about a mean, but much about how far quantization moves it: the same
samples through the float network show what is theirs. So the file's statistics are corrected by
the difference of the means and the ratio of the variances, and not replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs
import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule
from onnxqat.graph import Graph
from onnxqat.graph.graph import is_onnx
from onnxqat.initialization.context import Context
from onnxqat.training.batches import TensorBatch

MEAN, VARIANCE = 3, 4
"""Inputs of BatchNormalization."""
MOST_CHANGE = 4.0
"""Times that a variance may grow or shrink: beyond, a channel is as good as constant."""


@dataclass(frozen=True, eq=False)
class _Norm:
    """A normalization whose statistics can be changed."""

    node: str
    source: str
    """The tensor that it normalizes."""
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of each channel, over all samples and places; in double precision."""

    mean: Tensor
    variance: Tensor

    @staticmethod
    def of(values: Sequence[Tensor]) -> _Moments:
        """Of batches [samples, channels, …] together."""
        rows = [value.double().transpose(0, 1).flatten(1) for value in values]
        count = sum(row.shape[1] for row in rows)
        mean = torch.stack([row.sum(1) for row in rows]).sum(0) / count
        squares = [(row - mean[:, None]).square().sum(1) for row in rows]
        return _Moments(mean, torch.stack(squares).sum(0) / count)


@torch.no_grad()
def reestimate_batch_norm(context: Context) -> None:
    """Move the statistics of every BatchNormalization by what quantization moves them."""
    norms = {norm.source: norm for norm in _norms(context)}
    if not norms:
        return
    sources = {node.name: node.inputs[0].name for node in _nodes(context.teacher.graph)}
    wanted = [sources[norm.node] for norm in norms.values()]
    in_float = _moments(context.teacher, context.batches, wanted)
    for tensor, values in _in_step(context.student, context.batches):
        norm = norms.get(tensor)
        if norm is not None:
            _move(norm, _Moments.of(values), in_float[sources[norm.node]])


def _norms(context: Context) -> Iterator[_Norm]:
    """The normalizations of the student that can be moved; of the others, why not."""
    tensors = _by_onnx_name(context.student)
    in_teacher = {node.name for node in _nodes(context.teacher.graph)}
    taken: set[str] = set()
    for node in _nodes(context.student.graph):
        source, mean, variance = (node.inputs[i].name for i in (0, MEAN, VARIANCE))
        if node.attrs.get("training_mode", 0):
            continue  # it takes those of each batch
        if node.name not in in_teacher or mean not in tensors or variance not in tensors:
            context.note(f"'{node.name}': its statistics are computed, or it is not in FP32")
        elif {source, mean, variance} & taken:
            context.note(f"'{node.name}': its statistics or its input are another's, too")
        else:
            taken |= {source, mean, variance}
            yield _Norm(node.name, source, tensors[mean], tensors[variance])


def _nodes(graph: Graph) -> list[gs.Node]:
    return [x for x in graph.nodes if x.op == "BatchNormalization" and is_onnx(x)]


def _by_onnx_name(module: OnnxModule) -> dict[str, Tensor]:
    """Initializer -> the tensor that the module computes with."""
    return {
        source.name: module.get_tensor(name)
        for name, sources in module.sources.items()
        for source in sources
    }


def _moments(
    module: OnnxModule, batches: Sequence[TensorBatch], names: Sequence[str]
) -> Mapping[str, _Moments]:
    wanted = frozenset(names)
    steps = _in_step(module, batches)
    return {name: _Moments.of(values) for name, values in steps if name in wanted}


def _in_step(
    module: OnnxModule, batches: Sequence[TensorBatch]
) -> Iterator[tuple[str, list[Tensor]]]:
    """Each tensor of a module with its values in all batches, in the module's order.

    All batches are one node further each time, so that what is changed of a later node holds for
    all of them.
    """
    for index, name in enumerate(module.input_names):
        yield name, [batch.inputs[index] for batch in batches]
    walks = [module.walk(*batch.inputs) for batch in batches]
    for steps in zip(*walks, strict=True):
        yield steps[0][1], [value for _, _, value in steps]


def _move(norm: _Norm, now: _Moments, before: _Moments) -> None:
    ratio = now.variance / before.variance.clamp_min(torch.finfo(torch.float32).tiny)
    is_telling = (ratio > 1 / MOST_CHANGE) & (ratio < MOST_CHANGE)
    norm.mean.add_((now.mean - before.mean).to(norm.mean))
    norm.variance.mul_(torch.where(is_telling, ratio, 1.0).to(norm.variance))
