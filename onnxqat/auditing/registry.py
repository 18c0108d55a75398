"""The table of audit rules: code -> rule. A rule is one generator; its docstring is its manual."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnxqat.auditing.subject import Subject
from onnxqat.core.finding import Finding, Severity


@dataclass(frozen=True)
class Objection:
    """What a rule yields: a finding without the rule's own code and severity."""

    message: str
    node: str | None = None
    tensor: str | None = None
    fix: str | None = None


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
        for objection in self.check(subject):
            yield Finding(
                rule=self.code,
                severity=self.severity,
                message=objection.message,
                node=objection.node,
                tensor=objection.tensor,
                fix=objection.fix,
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
