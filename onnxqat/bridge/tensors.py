"""The tensors that a module holds, under unique torch names."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxqat.bridge.names import torch_name
from onnxqat.bridge.ops.dtypes import NARROW
from onnxqat.core.errors import ModelError
from onnxqat.graph.query import constant_value


class ModuleTensors:
    """Parameters and buffers, made when a constant is first read."""

    def __init__(self, stored: Collection[int]) -> None:
        """Take the ids of the constants that the source graph stores: they are the state."""
        self._stored = stored
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        self.saved: set[str] = set()
        """Names of the buffers that belong to the state: float initializers."""
        self.constants: dict[str, list[gs.Constant]] = {}
        """Torch name -> the constants whose value a parameter or saved buffer holds: one, or
        several that are trained as one."""
        self._names: dict[int, str] = {}

    def parameter(
        self,
        constant: gs.Constant,
        value: Callable[[], Tensor] | None = None,
        *,
        train: bool = True,
    ) -> str:
        """The name of the parameter that holds an initializer, or `value()` in its place."""
        if id(constant) not in self._names:
            name = self._new_name(constant.name)
            data = tensor_of(constant_value(constant)) if value is None else value()
            self.parameters[name] = nn.Parameter(data, requires_grad=train)
            self._names[id(constant)], self.constants[name] = name, [constant]
        return self._names[id(constant)]

    def tie(self, constant: gs.Constant, other: gs.Constant) -> None:
        """Train two constants of equal value as one parameter.

        Raises:
            ModelError: Each is a parameter already.
        """
        known = [c for c in (constant, other) if id(c) in self._names]
        if len(known) == 2 and self._names[id(constant)] != self._names[id(other)]:
            raise ModelError(
                f"'{constant.name}' and '{other.name}' are each shared with other Q/DQ pairs",
                tensor=constant.name,
                fix="give Q and DQ of each pair the same scale initializer",
            )
        first, second = (constant, other) if constant in known else (other, constant)
        name = self.parameter(first, train=False)
        if id(second) not in self._names:
            self._names[id(second)] = name
            self.constants[name].append(second)

    def buffer(self, constant: gs.Constant) -> str:
        """The name of the buffer that holds an initializer."""
        if id(constant) not in self._names:
            name = self.known(constant.name, tensor_of(constant_value(constant)))
            self._names[id(constant)] = name
            if self.buffers[name].is_floating_point() and id(constant) in self._stored:
                self.saved.add(name)
                self.constants[name] = [constant]
        return self._names[id(constant)]

    def known(self, tensor_name: str, value: Tensor) -> str:
        """The name of a new buffer with a value that was computed once."""
        name = self._new_name(tensor_name)
        self.buffers[name] = value
        return name

    def _new_name(self, tensor_name: str) -> str:
        """A torch name that is not taken: the branches of an If may reuse tensor names."""
        name, count = torch_name(tensor_name), 1
        while name in self.parameters or name in self.buffers:
            count += 1
            name = torch_name(f"{tensor_name}#{count}")
        return name


def tensor_of(array: NDArray[Any] | None) -> Tensor:
    """A CPU tensor with the values of an array, in memory of its own.

    Raises:
        ModelError: torch has no such element type.
    """
    if array is None:
        raise ModelError("a constant has no value")
    name = array.dtype.name
    if name in _VIEWED:
        bits, dtype = _VIEWED[name]
        return torch.from_numpy(array.view(bits).copy()).view(dtype)
    if name in _NARROW:
        container, dtype = _NARROW[name]
        return torch.from_numpy(array.astype(np.int8)).view(container).view(dtype)
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise ModelError(f"element type {array.dtype} has no counterpart in torch") from error


_VIEWED = {
    "bfloat16": (np.int16, torch.bfloat16),
    **{
        name: (np.uint8, getattr(torch, name))
        for name in (
            "float8_e4m3fn",
            "float8_e4m3fnuz",
            "float8_e5m2",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
        )
        if hasattr(torch, name)
    },
}
"""Types that torch has with the same bits, and the numpy type to take the bits as."""
_NARROW = {str(dtype)[6:]: (container, dtype) for dtype, (container, *_) in NARROW.items()}
"""Types of less than a byte, which numpy and torch both keep one a byte."""
