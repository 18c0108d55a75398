"""Findings that are known and accepted: a later audit tells only what is new."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onnxqat.core.errors import ConfigError
from onnxqat.core.files import replacing
from onnxqat.core.finding import Finding

VERSION = 1

Place = tuple[str, str, str]
"""Rule, node, tensor: what stays when a message changes with its numbers."""


@dataclass(frozen=True)
class Baseline:
    """The places that were accepted."""

    places: frozenset[Place] = frozenset()

    @staticmethod
    def of(findings: Iterable[Finding]) -> Baseline:
        """All of these findings, accepted."""
        return Baseline(frozenset(_place(finding) for finding in findings))

    def new(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """The findings that are not accepted, in their order."""
        return tuple(finding for finding in findings if _place(finding) not in self.places)

    def save(self, path: Path) -> None:
        """Write a JSON file, one line a finding, sorted: it is for version control."""
        lines = (
            json.dumps({"rule": rule, "node": node, "tensor": tensor})
            for rule, node, tensor in sorted(self.places)
        )
        text = ",\n  ".join(lines)
        body = f'{{"version": {VERSION}, "findings": [\n  {text}\n]}}\n'
        with replacing(path) as part:
            part.write_text(body, encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Baseline:
        """What `save` wrote.

        Raises:
            ConfigError: The file is missing, or is no baseline.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']}")
            entries = document["findings"]
            return Baseline(frozenset((e["rule"], e["node"], e["tensor"]) for e in entries))
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}: {error.strerror}", fix="write one with --write-baseline"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is no baseline: {error}", fix="write it anew with --write-baseline"
            ) from error


def _place(finding: Finding) -> Place:
    return finding.rule, finding.node or "", finding.tensor or ""
