"""The findings by rule, the first of each with pictures of the place that it speaks of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxqat.core.finding import Finding, Severity
from onnxqat.report.html.contents import Report, View
from onnxqat.report.html.neighbourhood import Map, Neighbourhood
from onnxqat.report.html.picture import Picture, picture

SHOWN_OF_A_RULE = 3
"""Findings of one rule look alike: the first few are drawn, the others listed."""
PICTURED = 40
"""Findings that are drawn in all, so that a page on a bad model stays small."""


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and the state of the graph that it shows."""

    label: str
    picture: Picture


@dataclass(frozen=True)
class FindingCard:
    """One finding as it stands on the page."""

    finding: Finding
    pictures: tuple[LabelledPicture, ...]


@dataclass(frozen=True)
class RuleFindings:
    """What one rule objects to."""

    rule: str
    cards: tuple[FindingCard, ...]
    others: tuple[Finding, ...]


@dataclass(frozen=True)
class Findings:
    """All findings, in their order by the first of each rule."""

    rules: tuple[RuleFindings, ...]
    counts: tuple[tuple[Severity, int], ...]
    """How many of each severity, worst first."""
    mended: tuple[RuleFindings, ...] = ()
    """The same of what was mended, drawn around the place where it was found."""


def findings_by_rule(report: Report) -> Findings:
    """The findings of a report."""
    artist = _Artist(report)
    found = Counter(finding.severity for finding in report.findings or ())
    return Findings(
        rules=tuple(_by_rule(report.findings or (), artist, home=report.subject)),
        counts=tuple((severity, found[severity]) for severity in reversed(Severity)),
        mended=tuple(_by_rule(report.mended, artist, home=report.before or report.subject)),
    )


def _by_rule(findings: Sequence[Finding], artist: _Artist, *, home: View) -> Iterator[RuleFindings]:
    """The findings of one state of the graph."""
    rules: dict[str, list[Finding]] = {}
    for finding in findings:
        rules.setdefault(finding.rule, []).append(finding)
    for rule, of_rule in rules.items():
        first, others = of_rule[:SHOWN_OF_A_RULE], of_rule[SHOWN_OF_A_RULE:]
        cards = (FindingCard(finding, artist.pictures(finding, home=home)) for finding in first)
        yield RuleFindings(rule, tuple(cards), tuple(others))


class _Artist:
    """Draws a finding's place in each state of the graph, unless there are too many."""

    def __init__(self, report: Report) -> None:
        self._maps = {view.label: Map(view.graph) for view in _views(report)}
        self._drawn = 0

    def pictures(self, finding: Finding, *, home: View) -> tuple[LabelledPicture, ...]:
        """The place in each state of the graph, looked up in the one that it was found in."""
        place = self._maps[home.label].around(node=finding.node, tensor=finding.tensor)
        if place is None or self._drawn >= PICTURED:
            return ()
        self._drawn += 1
        return tuple(self._all_states(place, home.label))

    def _all_states(self, place: Neighbourhood, home: str) -> Iterator[LabelledPicture]:
        for label, map_ in self._maps.items():
            found = place if label == home else map_.same_place(place)
            if found is not None:
                yield LabelledPicture(label, picture(found))


def _views(report: Report) -> Iterator[View]:
    if report.before is not None:
        yield report.before
    yield report.subject
