"""The findings, each with pictures of the place that it speaks of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from onnxqat.core.finding import Finding, Severity
from onnxqat.report.html.contents import Report, View
from onnxqat.report.html.neighbourhood import Map, Neighbourhood
from onnxqat.report.html.picture import Picture, picture

PICTURED_OF_A_RULE = 3
"""Findings of one rule look alike: the first few are drawn."""
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
class Findings:
    """All findings, worst first, and what was left out."""

    cards: tuple[FindingCard, ...]
    counts: tuple[tuple[Severity, int], ...]
    """How many of each severity, worst first."""
    undrawn: int
    """Findings that are told without a picture because there are too many."""


def finding_cards(report: Report) -> Findings:
    """The findings of a report, in their order."""
    artist = _Artist(report)
    cards = tuple(FindingCard(f, artist.pictures(f)) for f in report.findings or ())
    found = Counter(card.finding.severity for card in cards)
    counts = tuple((severity, found[severity]) for severity in reversed(Severity))
    return Findings(cards, counts, artist.undrawn)


class _Artist:
    """Draws the place of a finding in each state of the graph, unless there are too many."""

    def __init__(self, report: Report) -> None:
        self._maps = {view.label: Map(view.graph) for view in _views(report)}
        self._subject = report.subject.label
        self._drawn: Counter[str] = Counter()
        self.undrawn = 0

    def pictures(self, finding: Finding) -> tuple[LabelledPicture, ...]:
        place = self._maps[self._subject].around(node=finding.node, tensor=finding.tensor)
        if place is None:
            return ()
        if self._drawn[finding.rule] >= PICTURED_OF_A_RULE or self._drawn.total() >= PICTURED:
            self.undrawn += 1
            return ()
        self._drawn[finding.rule] += 1
        return tuple(self._all_states(place))

    def _all_states(self, place: Neighbourhood) -> Iterator[LabelledPicture]:
        for label, map_ in self._maps.items():
            found = place if label == self._subject else map_.same_place(place.nodes)
            if found is not None:
                yield LabelledPicture(label, picture(found))


def _views(report: Report) -> Iterator[View]:
    for view in (report.before, report.subject, report.after):
        if view is not None:
            yield view
