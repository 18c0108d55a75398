"""Which torch function computes an ONNX operator version.

A function's signature is the operator's ONNX schema: positional parameters are the inputs (None for
an optional one), `*name` a variadic one, keyword-only parameters the attributes with their names
and defaults. Lists arrive as tuples. The annotation of an input says how it wants to be read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import onnx
import torch
from torch import Tensor

__all__ = [
    "BodyForm",
    "Floats",
    "HostValue",
    "Ints",
    "Moved",
    "Number",
    "Op",
    "Operand",
    "Outputs",
    "Reading",
    "Scalar",
    "TensorValue",
    "Weight",
    "find",
    "op",
    "ops",
]

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True)
class TensorValue:
    """An attribute that is a tensor."""

    tensor: Tensor
    """On the CPU; not to be written to."""
    dtype: torch.dtype
    number: float | None
    """Its value, if it has one element; Python's int, float or bool."""

    @classmethod
    def of(cls, tensor: Tensor) -> TensorValue:
        """The attribute with this value."""
        return cls(tensor, tensor.dtype, tensor.item() if tensor.numel() == 1 else None)


class Reading(Enum):
    """How an operator wants to read one of its inputs."""

    TENSOR = "tensor"
    """A tensor on the module's device."""
    WEIGHT = "weight"
    """The same; a float initializer that arrives here is worth training."""
    OPERAND = "operand"
    """The same, if it has more than one number: a single one is an exponent, an epsilon, 1/√d."""
    MOVED = "moved"
    """The same, if what comes out arrives somewhere that is worth training: Reshape, Transpose."""
    INTS = "ints"
    """Host integers: a tuple of ints, one for a scalar. Shapes, axes, pads."""
    FLOATS = "floats"
    """Host floats: a tuple. Resize scales."""
    SCALAR = "scalar"
    """A Python number where the host knows one element of whatever rank, else a tensor."""
    NUMBER = "number"
    """A Python number where the host knows one of rank 0, else a tensor."""
    HOST = "host"
    """A host value: an int for rank 0, a tuple of ints for rank 1, else a tensor of the CPU."""
    OUTPUTS = "outputs"
    """No input of the schema: the number of outputs that the node has."""


Weight = Annotated[Tensor, Reading.WEIGHT]
Operand = Annotated[Tensor, Reading.OPERAND]
Moved = Annotated[Tensor, Reading.MOVED]
Ints = Annotated[tuple[int, ...], Reading.INTS]
Floats = Annotated[tuple[float, ...], Reading.FLOATS]
Scalar = Annotated[float | Tensor, Reading.SCALAR]
Number = Annotated[float | Tensor, Reading.NUMBER]
HostValue = Annotated[int | tuple[int, ...] | Tensor, Reading.HOST]
Outputs = Annotated[int, Reading.OUTPUTS]


@dataclass(frozen=True)
class BodyForm:
    """What an operator gives its subgraph, and wants of it, as host values."""

    host_inputs: int = 0
    """The first inputs of the subgraph that are numbers of the host."""
    scalar_outputs: int = 0
    """The first outputs of the subgraph that are read as `Scalar`."""
    results_from: int | None = None
    """The output of the subgraph that is the operator's first result, the next its second, …"""
    carries: bool = False
    """These results come back as the subgraph's inputs after the first ones."""

    def reading_of_output(self, index: int, on_host: frozenset[int]) -> Reading:
        """How an output of the subgraph is read, if these results are host values."""
        if index < self.scalar_outputs:
            return Reading.SCALAR
        is_result = self.results_from is not None and index - self.results_from in on_host
        return Reading.HOST if is_result else Reading.TENSOR


@dataclass(frozen=True)
class Op:
    """A torch function and the operator versions that it computes."""

    name: str
    domain: str
    versions: tuple[int, ...]
    function: Function
    host: Function | None = field(default=None, compare=False)
    """The same on Python ints and tuples, for shape arithmetic; may return NotImplemented."""
    returns_ints: bool = False
    """The result is known on the host though the input is on a device: Shape and Size."""
    is_random: bool = False
    """Each call gives another result: it is never computed once for all."""

    @cached_property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """The function's parameters, as ONNX's schema has them."""
        return tuple(inspect.signature(self.function).parameters.values())

    @cached_property
    def readings(self) -> dict[str, Reading]:
        """Parameter name -> how it is read."""
        hints = get_type_hints(self.function, include_extras=True)
        return {p.name: _reading(hints.get(p.name)) for p in self.parameters}

    @cached_property
    def inputs(self) -> tuple[inspect.Parameter, ...]:
        """The parameters that are inputs; the last may stand for any number of them."""
        return tuple(p for p in self.parameters if p.kind is not p.KEYWORD_ONLY)

    @cached_property
    def attributes(self) -> tuple[inspect.Parameter, ...]:
        """The parameters that are attributes."""
        return tuple(
            p
            for p in self.parameters
            if p.kind is p.KEYWORD_ONLY and self.readings[p.name] is not Reading.OUTPUTS
        )

    def body_form(self, name: str) -> BodyForm:
        """How the subgraph in this attribute is run."""
        hint = get_type_hints(self.function, include_extras=True).get(name)
        notes = getattr(hint, "__metadata__", ())
        return next((note for note in notes if isinstance(note, BodyForm)), BodyForm())

    @cached_property
    def outputs_parameter(self) -> str | None:
        """The parameter that takes the number of outputs, if the function wants to know."""
        wanting = [n for n, reading in self.readings.items() if reading is Reading.OUTPUTS]
        return wanting[0] if wanting else None

    def reading(self, index: int) -> Reading:
        """How input `index` is read."""
        return self.readings[self.inputs[min(index, len(self.inputs) - 1)].name]


def _reading(hint: Any) -> Reading:
    for part in (hint, *get_args(hint)):
        for note in getattr(part, "__metadata__", ()):
            if isinstance(note, Reading):
                return note
    return Reading.TENSOR


_OPS: dict[tuple[str, str, int], Op] = {}


def op(
    name: str,
    *,
    versions: tuple[int, ...],
    domain: str = "",
    host: Function | None = None,
    returns_ints: bool = False,
    is_random: bool = False,
) -> Callable[[F], F]:
    """Register the decorated function for these since-versions of an operator.

    Raises:
        ValueError: A version is registered already.
    """

    def register(function: F) -> F:
        entry = Op(name, domain, versions, function, host, returns_ints, is_random)
        for version in versions:
            if (domain, name, version) in _OPS:
                raise ValueError(f"{name} since version {version} is registered twice")
            _OPS[domain, name, version] = entry
        return function

    return register


def ops() -> dict[tuple[str, str, int], Op]:
    """All registered operators, by (domain, name, since-version)."""
    return dict(_OPS)


def find(name: str, *, domain: str, opset: int) -> Op | None:
    """The function for the version of the operator that is valid at `opset`, or None.

    The version is the one that ONNX's own schemas say; a neighbouring one is never taken instead.
    """
    since = since_version(name, domain=domain, opset=opset)
    return None if since is None else _OPS.get((_plain(domain), name, since))


def since_version(name: str, *, domain: str, opset: int) -> int | None:
    """The since-version of the operator at `opset`; None where ONNX knows none."""
    if _plain(domain) != "":
        versions = [v for d, n, v in _OPS if (d, n) == (domain, name) and v <= opset]
        return max(versions, default=None)
    if opset > onnx.defs.onnx_opset_version():
        return None
    try:
        schema: Any = onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return None
    return int(schema.since_version)


def listed_versions(name: str, domain: str = "") -> tuple[int, ...]:
    """The since-versions of an operator that are registered, ascending."""
    return tuple(sorted(v for d, n, v in _OPS if (d, n) == (_plain(domain), name)))


def _plain(domain: str | None) -> str:
    return "" if domain in (None, "ai.onnx") else str(domain)
