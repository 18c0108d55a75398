"""Operators on strings, which are numpy arrays of `str` on the host, and on n-grams."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxqat.bridge.ops.registry import op

Strings = NDArray[Any]
"""A numpy array of dtype object that holds Python strings."""
_CASES: dict[str, Callable[[str], str]] = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}


def numbers_of(strings: Strings) -> Tensor:
    """The numbers that strings write: '3.14', '1e-5', 'NaN', '-INF'."""
    try:
        return torch.from_numpy(strings.astype(np.int64))
    except ValueError:
        return torch.from_numpy(strings.astype(np.float64))


@op("StringConcat", versions=(20,))
def string_concat(X: Strings, Y: Strings) -> Strings:
    joined: Strings = np.asarray(X + Y, dtype=object)
    return joined


@op("StringNormalizer", versions=(10,))
def string_normalizer(
    X: Strings,
    *,
    case_change_action: str = "NONE",
    is_case_sensitive: int = 0,
    locale: str | None = None,
    stopwords: tuple[str, ...] | None = None,
) -> Strings:
    """Stop words go first, then the case changes; a row that is left empty holds one ''."""

    def folded(word: str) -> str:
        return word if is_case_sensitive else word.lower()

    stops = {folded(word) for word in stopwords or ()}
    change = _CASES[case_change_action]
    kept = [change(word) for word in X.reshape(-1) if folded(word) not in stops] or [""]
    rows = np.array(kept, dtype=object)
    return rows.reshape(1, -1) if X.ndim == 2 else rows


@op("StringSplit", versions=(20,))
def string_split(
    X: Strings, *, delimiter: str | None = None, maxsplit: int | None = None
) -> tuple[Strings, Tensor]:
    most = -1 if maxsplit is None else maxsplit
    parts = [word.split(delimiter or None, most) for word in X.reshape(-1)]
    counts = torch.tensor([len(words) for words in parts], dtype=torch.int64).reshape(X.shape)
    width = max((len(words) for words in parts), default=0)
    rows = [words + [""] * (width - len(words)) for words in parts]
    return np.array(rows, dtype=object).reshape(*X.shape, width), counts


@op("TfIdfVectorizer", versions=(9,))
def tfidf_vectorizer(
    X: Tensor | Strings,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: tuple[int, ...],
    ngram_indexes: tuple[int, ...],
    pool_int64s: tuple[int, ...] | None = None,
    pool_strings: tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
) -> Tensor:
    places = dict(zip(_pool(pool_int64s or pool_strings or (), ngram_counts), ngram_indexes))  # noqa: B905 - a pool may say more grams than it counts
    rows: list[Any] = [X.tolist()] if X.ndim == 1 else X.tolist()
    counts = torch.zeros(len(rows), max(ngram_indexes) + 1)
    for i, row in enumerate(rows):
        found = _grams(row, min_gram_length, max_gram_length, max_skip_count)
        for gram, count in Counter(gram for gram in found if gram in places).items():
            counts[i, places[gram]] += count
    counts = counts.clamp(max=1) if mode == "IDF" else counts
    if weights and mode != "TF":
        counts = counts * torch.tensor(weights)
    counts = counts[0] if X.ndim == 1 else counts
    return counts.to(X.device) if isinstance(X, Tensor) else counts


Gram = tuple[Any, ...]


def _pool(items: Sequence[Any], starts: Sequence[int]) -> list[Gram]:
    """The grams of a pool that holds those of length 1 from starts[0] on, of length 2 then, …"""
    ends = [*starts[1:], len(items)]
    return [
        tuple(items[i : i + length])
        for length, (start, end) in enumerate(zip(starts, ends, strict=True), 1)
        for i in range(start, end, length)
    ]


def _grams(row: Sequence[Any], shortest: int, longest: int, skips: int) -> Iterable[Gram]:
    """All grams of a row, their items next to each other or equally far apart."""
    for length in range(shortest, longest + 1):
        for step in range(1, (skips if length > 1 else 0) + 2):
            reach = (length - 1) * step + 1
            for start in range(len(row) - reach + 1):
                yield tuple(row[start : start + reach : step])
