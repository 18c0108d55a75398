"""The user's own choice of nodes: which stay in float because the config says so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from onnxqat.core.errors import ConfigError
from onnxqat.placement.config import PlacementConfig


def closed_nodes(ops: dict[str, str], config: PlacementConfig) -> dict[str, str]:
    """Name -> reason, for each node that the user keeps in float.

    Args:
        ops: Node name -> op type, of the whole graph.
        config: The user's choice.

    Raises:
        ConfigError: A pattern is no regular expression or matches no node, or there is no node of
            an excluded op type: a choice that does nothing is a mistake.
    """
    closed: dict[str, str] = {}
    for op in config.exclude_ops:
        named = [name for name, its in ops.items() if its == op]
        _must_choose(named, what="op type", wanted=op, instead=sorted(set(ops.values())))
        closed.update(dict.fromkeys(named, f"op type {op} is excluded by the user"))
    for pattern in config.exclude:
        matched = _matches(pattern, ops)
        closed.update(dict.fromkeys(matched, f"excluded by the user's pattern '{pattern}'"))
    if config.include:
        included = {name for pattern in config.include for name in _matches(pattern, ops)}
        reason = "not among the nodes that the user includes"
        closed.update({name: reason for name in ops if name not in included and name not in closed})
    return closed


def _matches(pattern: str, names: Iterable[str]) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"'{pattern}' is no regular expression: {error}") from error
    matched = [name for name in names if compiled.fullmatch(name)]
    _must_choose(matched, what="pattern", wanted=pattern, instead=sorted(names))
    return matched


def _must_choose(found: list[str], *, what: str, wanted: str, instead: list[str]) -> None:
    if not found:
        close = get_close_matches(wanted, instead, n=3, cutoff=0.5)
        shown = ", ".join(close or [*instead[:8], *(["…"] if len(instead) > 8 else [])])
        raise ConfigError(
            f"{what} '{wanted}' matches no node of the model",
            fix=f"name what there is, as {shown} (a pattern must match a whole name)",
        )
