"""How much each quantizer of a model does to its outputs: plain data."""

from __future__ import annotations

from dataclasses import dataclass

from onnxqat.core.training_record import Validation


@dataclass(frozen=True)
class QuantizerSensitivity:
    """One quantizer: all tensors that use one scale, with all their readers."""

    tensors: tuple[str, ...]
    """What it quantizes, in the order of the graph."""
    nodes: tuple[str, ...]
    """The nodes that read them through it."""
    is_weight: bool
    """Whether all of them are weights."""
    values: int | None
    """Numbers in its weights; None for activations."""
    alone: Validation
    """Only this quantizer on, against none: what it does by itself."""
    share: float
    """Its part (0 to 1) of the errors that all quantizers make alone, summed."""
    without: Validation | None
    """All but this one on, against the FP32 model; None where its share is too small to matter, or
    where it was not asked for."""

    @property
    def name(self) -> str:
        """The first of its tensors, by which it is called."""
        return self.tensors[0]


@dataclass(frozen=True)
class Sensitivity:
    """Every quantizer of a model, the most sensitive first."""

    ranked_by: str
    """`sqnr`, `loss` or `metric`."""
    samples: int
    every: Validation
    """All quantizers on, against the FP32 model."""
    none: Validation
    """All off, against the FP32 model: what is left is not quantization, but weights that training
    or equalization changed."""
    quantizers: tuple[QuantizerSensitivity, ...]

    def of_node(self, node: str) -> float:
        """The share of the error that a node's quantizers make, of its data and of its weights."""
        return sum(found.share for found in self.quantizers if node in found.nodes)
