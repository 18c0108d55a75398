"""uint16, uint32 and uint64, for which torch has few kernels and numpy has all."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

WIDE_UNSIGNED = frozenset((torch.uint16, torch.uint32, torch.uint64))
F = TypeVar("F", bound=Callable[..., Any])


def or_numpy(exact: Callable[..., Any]) -> Callable[[F], F]:
    """Let numpy compute what torch has no kernel for; such tensors carry no gradient."""

    def decorate(function: F) -> F:
        @wraps(function)
        def chosen(first: Any, *others: Any, **attributes: Any) -> Any:
            if first.dtype in WIDE_UNSIGNED:
                arrays = (tensor.cpu().numpy() for tensor in (first, *others))
                return _from_numpy(exact(*arrays, **attributes), first)
            return function(first, *others, **attributes)

        return chosen  # type: ignore[return-value]

    return decorate


def _from_numpy(result: Any, like: Tensor) -> Tensor:
    tensor = torch.from_numpy(result) if hasattr(result, "ndim") and result.ndim else None
    return torch.tensor(result, device=like.device) if tensor is None else tensor.to(like.device)
