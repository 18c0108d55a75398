"""ONNX Runtime's attention operators, where they are plain: no shared buffers, no beams.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

# ruff: noqa: D103 - an operator is documented by its page
from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from onnxqat.bridge.ops.attention import Scores, attend, join_heads, rotate, split_heads
from onnxqat.bridge.ops.contrib import DOMAIN, FIRST
from onnxqat.bridge.ops.registry import Outputs, Weight, op
from onnxqat.core.errors import ModelError

MASKED = -10000.0
"""What ONNX Runtime adds to a masked score, by default."""


@op("Attention", domain=DOMAIN, versions=FIRST)
def attention(
    input: Tensor,
    weights: Weight,
    bias: Weight | None = None,
    mask_index: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_sequence_length: Tensor | None = None,
    *,
    do_rotary: int = 0,
    mask_filter_value: float = MASKED,
    num_heads: int,
    past_present_share_buffer: int = 0,
    qkv_hidden_sizes: tuple[int, ...] | None = None,
    rotary_embedding_dim: int = 0,
    scale: float | None = None,
    unidirectional: int = 0,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, ...]:
    _refuse(do_rotary=do_rotary, past_present_share_buffer=past_present_share_buffer)
    joint = input @ weights if bias is None else input @ weights + bias
    sizes = qkv_hidden_sizes or (joint.shape[-1] // 3,) * 3
    Q, K, V = (split_heads(part, num_heads) for part in joint.split_with_sizes(sizes, -1))
    if past is not None:
        K, V = torch.cat((past[0], K), 2), torch.cat((past[1], V), 2)
    masks = [_mask(mask_index, K, mask_filter_value), attention_bias]
    if unidirectional:
        masks.append(_causal(Q, K))
    Y = _attended(Q, K, V, masks, scale=scale)
    return Y if outputs == 1 else (Y, torch.stack((K, V)))


@op("MultiHeadAttention", domain=DOMAIN, versions=FIRST)
def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Weight | None = None,
    key_padding_mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    past_sequence_length: Tensor | None = None,
    cache_indirection: Tensor | None = None,
    *,
    mask_filter_value: float = MASKED,
    num_heads: int,
    scale: float | None = None,
    unidirectional: int = 0,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, ...]:
    _refuse(
        past_sequence_length=past_sequence_length,
        cache_indirection=cache_indirection,
        qk=outputs > 3,
    )
    Q, K, V = _heads(_unpacked(query, key, value), bias, num_heads)
    if past_key is not None and past_value is not None:
        K, V = torch.cat((past_key, K), 2), torch.cat((past_value, V), 2)
    masks = [_mask(key_padding_mask, K, mask_filter_value), attention_bias]
    if unidirectional:
        masks.append(_causal(Q, K))
    Y = _attended(Q, K, V, masks, scale=scale)
    return Y if outputs == 1 else (Y, K, V)[:outputs]


@op("RotaryEmbedding", domain=DOMAIN, versions=FIRST)
def rotary_embedding(
    input: Tensor,
    position_ids: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    _refuse(is_packed_batching=is_packed_batching)
    heads = num_heads or input.shape[-1] // (2 * cos_cache.shape[-1])
    x = split_heads(input, heads) if input.ndim == 3 else input
    places = position_ids
    if position_ids.numel() == 1:  # where the first token stands
        places = position_ids.reshape(1, 1) + torch.arange(x.shape[2], device=x.device)
    cos, sin = (cache[places].unsqueeze(1) for cache in (cos_cache, sin_cache))
    size = rotary_embedding_dim or x.shape[-1]
    y = rotate(x, cos, sin, size=size, interleaved=bool(interleaved))
    return join_heads(y) if input.ndim == 3 else y


def _refuse(**features: object) -> None:
    used = [name for name, value in features.items() if value is not None and value]
    if used:
        raise ModelError(f"attention with {' and '.join(used)} has no torch implementation")


def _unpacked(query: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, ...]:
    """Queries, keys and values, of rank 3, or of rank 4 with their heads apart."""
    if query.ndim == 5:  # [batch, length, heads, 3, size]
        return tuple(part.transpose(1, 2) for part in query.unbind(3))
    if key is not None and key.ndim == 5:
        return query, *(part.transpose(1, 2) for part in key.unbind(3))
    if key is None or value is None:
        raise ModelError("attention without keys or values has no torch implementation")
    return query, key, value


def _heads(parts: Sequence[Tensor], bias: Tensor | None, heads: int) -> list[Tensor]:
    """The parts as [batch, heads, length, size], with the bias of their projection added.

    Keys and values that have their heads apart already come with it from elsewhere.
    """
    sizes = [x.shape[-1] if x.ndim == 3 else heads * x.shape[-1] for x in parts]
    biases = [None] * 3 if bias is None else list(bias.split_with_sizes(sizes))
    return [_head(x, b, heads) for x, b in zip(parts, biases, strict=True)]


def _head(x: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    if x.ndim == 4:
        return x if bias is None else x + bias.reshape(1, heads, 1, -1)
    return split_heads(x if bias is None else x + bias, heads)


def _mask(mask: Tensor | None, K: Tensor, masked: float) -> Tensor | None:
    """What a mask adds to the scores: 0 where it is positive, else `masked`.

    It is [batch, keys], [batch, queries, keys], or the length of each sequence [batch].
    """
    if mask is None:
        return None
    if mask.ndim == 1:
        if mask.shape[0] != K.shape[0]:
            raise ModelError(f"a mask of {mask.shape[0]} indices has no torch implementation")
        mask = (torch.arange(K.shape[2], device=K.device) < mask.unsqueeze(1)).to(K.dtype)
    if mask.ndim not in (2, 3):
        raise ModelError(f"a mask of rank {mask.ndim} has no torch implementation")
    mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    return torch.zeros_like(mask, dtype=K.dtype).masked_fill(mask <= 0, masked)


def _causal(Q: Tensor, K: Tensor) -> Tensor:
    """−∞ where a key comes after its query."""
    length, size = Q.shape[2], K.shape[2]
    hidden = torch.ones(length, size, dtype=torch.bool, device=Q.device).triu(size - length + 1)
    return Q.new_zeros(length, size).masked_fill(hidden, float("-inf"))


def _attended(
    Q: Tensor, K: Tensor, V: Tensor, masks: Sequence[Tensor | None], *, scale: float | None
) -> Tensor:
    bias: Tensor | None = None
    for mask in masks:
        if mask is not None:
            bias = mask if bias is None else bias + mask
    factor = scale or 1 / sqrt(Q.shape[3])
    Y, _ = attend(Q, K, V, bias=bias, scores=Scores(factor, Q.dtype))
    return join_heads(Y)
