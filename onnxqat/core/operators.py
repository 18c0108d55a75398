"""Which versions of which operators the bridge has a torch function for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OperatorVersion:
    """An operator as it is from one opset on."""

    since: int
    is_covered: bool
    """Whether there is a torch function."""
    reason: str | None = None
    """Why there is none."""


@dataclass(frozen=True)
class Operator:
    """An operator of a domain, in all its versions."""

    domain: str
    """Empty for ONNX's own."""
    name: str
    versions: tuple[OperatorVersion, ...]
    """Oldest first."""

    @property
    def full_name(self) -> str:
        """The name, behind the domain where that is not ONNX's own."""
        return f"{self.domain}.{self.name}" if self.domain else self.name

    @property
    def covered(self) -> tuple[int, ...]:
        """The versions that have a torch function."""
        return tuple(version.since for version in self.versions if version.is_covered)

    @property
    def reasons(self) -> dict[str, tuple[int, ...]]:
        """Reason -> the versions that have no torch function for it."""
        found: dict[str, tuple[int, ...]] = {}
        for version in self.versions:
            if version.reason is not None:
                found[version.reason] = (*found.get(version.reason, ()), version.since)
        return found


@dataclass(frozen=True)
class OperatorUse:
    """An operator version in a model."""

    operator: str
    since: int | None
    """None where ONNX knows no such operator at the model's opset."""
    nodes: tuple[str, ...]
    """Names of the nodes, in the model's order."""
    is_covered: bool
    """Whether there is a torch function."""
