"""What `prepare` reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One change that `prepare` made to the graph."""

    kind: str
    """A short word for the sort of change, as `fold batch normalization`."""
    node: str
    """The node that changed or went; the graph's input or tensor where there was no node."""
    detail: str
    """A sentence that says what happened."""
