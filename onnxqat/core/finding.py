"""One objection of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad a finding is, worst last."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """The worse, the higher."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """What an audit rule objects to, where, and what to do about it."""

    rule: str
    severity: Severity
    message: str
    node: str | None = None
    tensor: str | None = None
    fix: str | None = None
    is_fixable: bool = False
    """Whether `audit --fix` mends it: without narrowing the range of any tensor."""
