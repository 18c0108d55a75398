"""Attention and what belongs to it: rotary positions, the key/value cache, linear attention."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.dtypes import torch_dtype
from onnxqat.bridge.ops.registry import Outputs, Weight, op
from onnxqat.core.errors import ModelError

NEVER = float("-inf")
UNBOUNDED = -1
"""A window without an end on that side."""


@op("Attention", versions=(23, 24, 25))
def attention(
    Q: Weight,
    K: Weight,
    V: Weight,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = UNBOUNDED,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = UNBOUNDED,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor | None, ...]:
    is_flat = Q.ndim == 3
    if is_flat:
        Q, K, V = (
            split_heads(x, n) for x, n in ((Q, q_num_heads), (K, kv_num_heads), (V, kv_num_heads))
        )
    if past_key is not None and past_value is not None:
        K, V = torch.cat((past_key, K), 2), torch.cat((past_value, V), 2)
    reach = _Reach(
        past=0 if past_key is None else past_key.shape[2],
        valid=nonpad_kv_seqlen,
        is_causal=bool(is_causal),
        left=left_window_size,
        right=right_window_size,
    )
    scores = Scores(
        scale=1 / sqrt(Q.shape[3]) if scale is None else scale,
        softcap=softcap,
        precision=Q.dtype if softmax_precision is None else torch_dtype(softmax_precision),
        shown=qk_matmul_output_mode if outputs > 3 else None,
    )
    Y, shown = attend(Q, K, V, bias=reach.bias(Q, K, attn_mask), scores=scores)
    Y = join_heads(Y) if is_flat else Y
    return Y if outputs == 1 else (Y, K, V, shown)[:outputs]


def split_heads(x: Tensor, heads: int | None) -> Tensor:
    """[batch, length, heads × size] as [batch, heads, length, size]."""
    if not heads:
        raise ModelError("attention over rank 3 needs its numbers of heads")
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[batch, heads, length, size] as [batch, length, heads × size]."""
    return x.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class _Reach:
    """Which keys a query may see."""

    past: int
    valid: Tensor | None
    is_causal: bool
    left: int
    right: int

    def bias(self, Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores [batch or 1, heads or 1, queries, keys]; None for nothing."""
        length, size = Q.shape[2], K.shape[2]
        parts = [] if mask is None else [_as_bias(mask, size, Q.dtype)]
        allowed = [*self._by_position(length, size, Q.device), *self._by_length(size)]
        parts += [_as_bias(part, size, Q.dtype) for part in allowed]
        if not parts:
            return None
        total = Q.new_zeros(length, size)
        for part in parts:
            total = total + part
        return total

    def _by_position(self, length: int, size: int, device: torch.device) -> list[Tensor]:
        if not self.is_causal and self.left == self.right == UNBOUNDED:
            return []
        query = torch.arange(length, device=device).reshape(-1, 1) + self.past
        if self.valid is not None and not self.past:
            query = query + (self.valid.reshape(-1, 1, 1, 1) - length)
        ahead = torch.arange(size, device=device) - query
        bounds = []
        if self.is_causal:
            bounds.append(ahead <= 0)
        if self.left != UNBOUNDED:
            bounds.append(ahead >= -self.left)
        if self.right != UNBOUNDED:
            bounds.append(ahead <= self.right)
        return bounds

    def _by_length(self, size: int) -> list[Tensor]:
        if self.valid is None:
            return []
        keys = torch.arange(size, device=self.valid.device)
        return [keys < self.valid.reshape(-1, 1, 1, 1)]


def _as_bias(mask: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to the scores; keys past its end are not seen."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, NEVER)
    return functional.pad(mask, (0, max(size - mask.shape[-1], 0)), value=NEVER)


@dataclass(frozen=True)
class Scores:
    """How the scores are made; `shown` is the stage that is an output as well."""

    scale: float
    precision: torch.dtype
    softcap: float = 0.0
    shown: int | None = None


def attend(
    Q: Tensor, K: Tensor, V: Tensor, *, bias: Tensor | None, scores: Scores
) -> tuple[Tensor, Tensor | None]:
    """Attention over [batch, heads, length, size], and the stage of the scores that is asked for.

    A query that may see no key gives 0, and no NaN in the gradient either.
    """
    blind = None
    if bias is not None:
        blind = (bias == NEVER).all(-1, keepdim=True)
        bias = bias.masked_fill(blind, 0.0)
    groups = Q.shape[1] // K.shape[1]
    if groups > 1:
        K, V = K.repeat_interleave(groups, 1), V.repeat_interleave(groups, 1)
    if scores.shown is None and not scores.softcap and scores.precision == Q.dtype:
        Y = functional.scaled_dot_product_attention(Q, K, V, bias, scale=scores.scale)
        return (Y if blind is None else Y.masked_fill(blind, 0.0)), None
    return _attend_in_steps(Q, K, V, bias=bias, blind=blind, scores=scores)


def _attend_in_steps(
    Q: Tensor, K: Tensor, V: Tensor, *, bias: Tensor | None, blind: Tensor | None, scores: Scores
) -> tuple[Tensor, Tensor]:
    root = sqrt(scores.scale)
    raw = (Q * root) @ (K * root).transpose(-1, -2)
    capped = torch.tanh(raw / scores.softcap) * scores.softcap if scores.softcap else raw
    biased = capped if bias is None else capped + bias
    weights = biased.to(scores.precision).softmax(-1).to(Q.dtype)
    if blind is not None:
        weights = weights.masked_fill(blind, 0.0)
        biased = biased.masked_fill(blind, NEVER)
    return weights @ V, (raw, capped, biased, weights)[scores.shown or 0]


@op("RotaryEmbedding", versions=(23,))
def rotary_embedding(
    X: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    x = split_heads(X, num_heads) if X.ndim == 3 else X
    if position_ids is not None:
        cos_cache, sin_cache = (c[position_ids.to(torch.int64)] for c in (cos_cache, sin_cache))
    y = rotate(
        x,
        cos_cache.unsqueeze(1),
        sin_cache.unsqueeze(1),
        size=rotary_embedding_dim or x.shape[-1],
        interleaved=bool(interleaved),
    )
    return join_heads(y) if X.ndim == 3 else y


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, size: int, interleaved: bool) -> Tensor:
    """The first `size` numbers of each head, turned in pairs."""
    turned, rest = x[..., :size], x[..., size:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        y = torch.stack((cos * a - sin * b, sin * a + cos * b), -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        y = torch.cat((cos * a - sin * b, sin * a + cos * b), -1)
    return torch.cat((y, rest), -1) if rest.shape[-1] else y


@op("TensorScatter", versions=(24,))
def tensor_scatter(
    past_cache: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Tensor:
    cache, new = past_cache.movedim(axis, 1), update.movedim(axis, 1)
    positions = torch.arange(new.shape[1], device=cache.device).unsqueeze(0)
    if write_indices is not None:
        positions = positions + write_indices.to(torch.int64).unsqueeze(1)
    if mode == "circular":
        positions = positions.remainder(cache.shape[1])
    batch = torch.arange(cache.shape[0], device=cache.device).unsqueeze(1)
    return cache.index_put((batch, positions), new).movedim(1, axis)


@op("LinearAttention", versions=(27,))
def linear_attention(
    query: Weight,
    key: Weight,
    value: Weight,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    is_gated, is_delta = update_rule.startswith("gated"), update_rule.endswith("delta")
    if is_gated != (decay is not None) or is_delta != (beta is not None):
        raise ModelError(f"LinearAttention '{update_rule}' does not go with its optional inputs")
    q, k, v = (
        split_heads(x, n).float()
        for x, n in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads))
    )
    fade = None if decay is None else split_heads(decay, kv_num_heads).float().exp()
    step = None if beta is None else split_heads(beta, beta.shape[-1]).float()
    if past_state is None:
        state = q.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
    else:
        state = past_state.float()
    groups = q_num_heads // kv_num_heads
    rows = []
    for t in range(q.shape[2]):
        if fade is not None:
            state = state * fade[:, :, t].unsqueeze(-1)
        write = v[:, :, t]
        if step is not None:
            recalled = (state * k[:, :, t].unsqueeze(-1)).sum(2)
            write = step[:, :, t] * (write - recalled)
        state = state + k[:, :, t].unsqueeze(-1) * write.unsqueeze(2)
        seen = state.repeat_interleave(groups, 1)
        rows.append((q[:, :, t].unsqueeze(2) @ seen).squeeze(2))
    factor = scale or 1 / sqrt(k.shape[3])
    output = join_heads(torch.stack(rows, 2) * factor).to(query.dtype)
    kept = state.to(query.dtype if past_state is None else past_state.dtype)
    return output if outputs == 1 else (output, kept)
