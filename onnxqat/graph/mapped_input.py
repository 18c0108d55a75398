"""Letting Convs read a linear map of their input, channel by channel, which their weights undo.

`W · x + b = (W / a) · (a · x + c) + (b − W · c / a)`, in float64, rounded to float32 once. The
zeros that a Conv pads with are padded before the map, since it need not map zero to zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.names import Names
from onnxqat.graph.passes.affine import FOLD, channels_of
from onnxqat.graph.passes.edit import float64, replace_constant
from onnxqat.graph.query import consumers

Doubles = NDArray[np.float64]


def why_not_mapped(node: gs.Node) -> str | None:
    """What keeps a Conv with constant weights from reading a map of its input; None: nothing."""
    if _pads(node) is None:
        return f"its padding is only known when it runs (auto_pad {node.attrs['auto_pad']})"
    return None


def map_input(
    graph: gs.Graph, nodes: Sequence[gs.Node], factors: Doubles, shifts: Doubles, names: Names
) -> None:
    """Let Convs that read one tensor read `factors · x + shifts`, both of shape [C]; what they
    compute stays. Those that pad alike read the same tensor. `why_not_mapped` keeps from none.
    """
    tensor = nodes[0].inputs[0]
    rank = nodes[0].inputs[1].values.ndim
    is_shifted = bool(shifts.any())
    readers = {id(node) for node in nodes}
    mapped: dict[tuple[int, ...], gs.Tensor] = {}
    for node in nodes:
        pads = (_pads(node) or ()) if is_shifted else ()
        if pads not in mapped:
            where = min(i for i, other in enumerate(graph.nodes) if id(other) in readers)
            chain = _chain(tensor, rank, pads, (factors, shifts if is_shifted else None), names)
            graph.nodes[where:where] = chain
            mapped[pads] = chain[-1].outputs[0]
        node.inputs[0] = mapped[pads]
        if pads:
            node.attrs.pop("auto_pad", None)
            node.attrs["pads"] = [0] * len(pads)
        _undo(node, factors, shifts, names)


def _pads(node: gs.Node) -> tuple[int, ...] | None:
    """Of a Conv, those at the beginning of each spatial axis, then those at its end; (): none; None
    where they depend on a size that is not known.
    """
    automatic = node.attrs.get("auto_pad", "NOTSET")
    pads = tuple(int(pad) for pad in node.attrs.get("pads", ()))
    if automatic in ("NOTSET", "VALID"):
        return pads if any(pads) and automatic == "NOTSET" else ()
    kernel = node.inputs[1].shape[2:]
    sizes = node.inputs[0].shape[2:] if node.inputs[0].shape is not None else [None] * len(kernel)
    steps = node.attrs.get("strides", [1] * len(kernel))
    if any(hole != 1 for hole in node.attrs.get("dilations", ())):
        return None  # ONNX Runtime cannot run it either
    ends: list[tuple[int, int]] = []
    for size, width, step in zip(sizes, kernel, steps, strict=True):
        if step != 1 and not isinstance(size, int):
            return None
        # As many places as ⌈size / step⌉; with a step of 1 that needs no size.
        added = width - 1 if step == 1 else max((-(-size // step) - 1) * step + width - size, 0)
        less, more = added // 2, added - added // 2
        ends.append((less, more) if automatic == "SAME_UPPER" else (more, less))
    pads = (*(begin for begin, _ in ends), *(end for _, end in ends))
    return pads if any(pads) else ()


def _chain(
    tensor: gs.Tensor,
    rank: int,
    pads: tuple[int, ...],
    by: tuple[Doubles, Doubles | None],
    names: Names,
) -> list[gs.Node]:
    """Pad, where there is something to pad; Mul; Add, where there is something to add."""
    chain: list[gs.Node] = []
    factors, shifts = by
    shape = None if tensor.shape is None else list(tensor.shape)

    def add(op: str, constant: NDArray[np.generic], attrs: Mapping[str, str]) -> None:
        source = chain[-1].outputs[0] if chain else tensor
        name = names.tensor(f"{tensor.name}_{op.lower()}")
        other = gs.Constant(names.tensor(f"{name}_by"), constant)
        output = gs.Variable(name, np.float32, shape)
        chain.append(gs.Node(op, names.node(name), dict(attrs), [source, other], [output]))

    if pads:
        half = len(pads) // 2
        both = [(0, 0, *pads[:half]), (0, 0, *pads[half:])]
        if shape is not None:
            added = zip(shape, *both, strict=True)
            shape = [size + a + b if isinstance(size, int) else None for size, a, b in added]
            shape[:2] = tensor.shape[:2]
        add("Pad", np.array(both, np.int64).reshape(-1), {"mode": "constant"})
    broadcast = (1, len(factors), *[1] * (rank - 2))
    add("Mul", factors.astype(np.float32).reshape(broadcast), {})
    if shifts is not None:
        add("Add", shifts.astype(np.float32).reshape(broadcast), {})
    return chain


def _undo(node: gs.Node, factors: Doubles, shifts: Doubles, names: Names) -> None:
    """Divide a Conv's weights by the factors, and take the shifts out of its bias."""
    weight = float64(node.inputs[1])  # [K, C / group, …]: the first K / group filters read the …
    group = int(node.attrs.get("group", 1))  # … first C / group channels
    inner = [1] * (weight.ndim - 2)
    split = weight.reshape(group, -1, *weight.shape[1:])
    divided = split / factors.reshape(group, 1, -1, *inner)
    moved = divided * shifts.reshape(group, 1, -1, *inner)
    by_filter = moved.reshape(len(weight), -1).sum(1)
    fresh = ""
    if len(consumers(node.inputs[1])) > 1:
        fresh = names.tensor(f"{node.inputs[1].name}_mapped")
    replace_constant(node, 1, divided.reshape(weight.shape).astype(np.float32), fresh_name=fresh)
    FOLD["Conv"](node, np.ones(channels_of(node)), -by_filter, names)
