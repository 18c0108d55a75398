"""The table of audit rules: code -> rule. A rule is one generator; its docstring is its manual."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from onnxqat.auditing.subject import Subject
from onnxqat.core.finding import Finding, Severity

Repair = Callable[[], None]
"""Changes the graph under audit so that the objection is gone, or nothing if it is gone already."""


@dataclass(frozen=True)
class Objection:
    """What a rule yields: a finding without the rule's own code and severity."""

    message: str
    node: str | None = None
    tensor: str | None = None
    fix: str | None = None
    repair: Repair | None = field(default=None, repr=False, compare=False)
    """What `--fix` does. It may lose precision, but never narrows the range of a tensor."""
    severity: Severity | None = None
    """Another one than the rule's, where a case is milder."""


Check = Callable[[Subject], Iterator[Objection]]


@dataclass(frozen=True)
class Rule:
    """One thing that an audit objects to."""

    code: str
    """Letters for the group, digits within it: QDQ012."""
    severity: Severity
    check: Check

    @property
    def title(self) -> str:
        """The first line of the manual page: what is wrong."""
        return self.manual.splitlines()[0]

    @property
    def manual(self) -> str:
        """The manual page: what is wrong, why it matters, how to fix it, and the source."""
        return inspect.getdoc(self.check) or self.code

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """What the rule objects to in a subject."""
        return (self.finding(objection) for objection in self.check(subject))

    def finding(self, objection: Objection) -> Finding:
        """One objection under this rule's code."""
        return Finding(
            rule=self.code,
            severity=objection.severity or self.severity,
            message=objection.message,
            node=objection.node,
            tensor=objection.tensor,
            fix=objection.fix,
            is_fixable=objection.repair is not None,
        )


RULES: dict[str, Rule] = {}
"""All rules by code, filled by `@rule` when `onnxqat.auditing.rules` is imported."""


def rule(code: str, severity: Severity) -> Callable[[Check], Check]:
    """Enter a generator into the table under a code that no other rule has."""

    def enter(check: Check) -> Check:
        if code in RULES:
            raise ValueError(f"two audit rules are called {code}")
        RULES[code] = Rule(code, severity, check)
        return check

    return enter
