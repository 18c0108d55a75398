"""Losses that a graph computes itself."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Outputs, op

NOTHING = -(2**62)
"""A label that no data has: torch always ignores one."""


@op("NegativeLogLikelihoodLoss", versions=(12, 13, 22))
def negative_log_likelihood_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    ignored = NOTHING if ignore_index is None else ignore_index
    labels = target.to(torch.int64)
    return functional.nll_loss(input, labels, weight, ignore_index=ignored, reduction=reduction)


@op("SoftmaxCrossEntropyLoss", versions=(12, 13))
def softmax_cross_entropy_loss(
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    log_prob = scores.log_softmax(1)
    loss = negative_log_likelihood_loss(
        log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction
    )
    return loss if outputs == 1 else (loss, log_prob)
