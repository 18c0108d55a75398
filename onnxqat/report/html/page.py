"""Renders a report to one HTML file that loads nothing: styles, script and pictures lie in it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from onnxqat.core.distribution import Distribution
from onnxqat.core.engine_plan import Passage
from onnxqat.report import numbers
from onnxqat.report.html import figures
from onnxqat.report.html.contents import Report
from onnxqat.report.html.findings import findings_by_rule
from onnxqat.report.html.layers import layers
from onnxqat.report.html.precision_map import height_of, precision_map
from onnxqat.report.html.summary import budget_lines, gain_lines, tiles
from onnxqat.report.html.weights import WeightsShown, noisiest_weights
from onnxqat.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

HISTOGRAMS = 9
"""The worst tensors are drawn; the others are fine, or much the same."""
WEIGHTS = 6
"""The worst weights are drawn: they differ less than activations do."""
ROWS_AT_ONCE = 200
"""Rows of the table that are shown until the reader asks for more."""

_PASSAGES = {
    Passage.QUANTIZED: "through memory in the quantized type",
    Passage.INSIDE: "inside one kernel",
    Passage.FLOAT: "through memory in float",
    Passage.ABSENT: "without a kernel that names them",
}

_PART = re.compile(r"[^/_.:]*[/_.:]+|[^/_.:]+")

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Drawn:
    """A figure and what it shows."""

    svg: Markup
    shown: Distribution | None = None
    weights: WeightsShown | None = None


def render(report: Report) -> str:
    """The whole page. The same report gives the same bytes: nothing in it tells the time.

    Names that come from a model are escaped; besides, the page forbids itself every script but its
    own, and all network.
    """
    rows = layers(report)
    script = Markup((_TEMPLATES / "report.js").read_text(encoding="utf-8"))  # noqa: S704 # ours
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))  # noqa: S704 # ours
    page = _environment().get_template("report.html.j2")
    return page.render(
        report=report,
        summary=report.summary,
        tiles=tiles(report.summary) if report.summary is not None else (),
        budget=budget_lines(report.summary) if report.summary is not None else (),
        gains=gain_lines(report.summary) if report.summary is not None else (),
        layers=rows,
        map=precision_map(report, rows.rows),
        findings=findings_by_rule(report),
        histograms=tuple(_histograms(report)),
        weights=tuple(_weights(report)),
        curves=tuple(_curves(report)),
        mix_curve=_mix_curve(report),
        undrawable=None if figures.can_draw() else figures.WITHOUT_MATPLOTLIB,
        passage_words=_PASSAGES,
        rows_at_once=ROWS_AT_ONCE,
        version=__version__,
        script=script,
        script_hash=_integrity(script),
        style=style,
    )


def _histograms(report: Report) -> Iterator[Drawn]:
    for number, shown in enumerate((report.distributions or ())[:HISTOGRAMS]):
        svg = figures.histogram(shown, key=f"h{number}") if figures.can_draw() else ""
        yield Drawn(Markup(svg), shown)  # noqa: S704 # holds no text of the model's


def _weights(report: Report) -> Iterator[Drawn]:
    for number, found in enumerate(noisiest_weights(report.subject.graph, WEIGHTS)):
        svg = (
            figures.histogram(found.shown, key=f"w{number}", unit="magnitude / clip point")
            if figures.can_draw()
            else ""
        )
        yield Drawn(Markup(svg), found.shown, found)  # noqa: S704 # holds no text of the model's


def _curves(report: Report) -> Iterator[Drawn]:
    if report.history and figures.can_draw():
        yield Drawn(Markup(figures.loss_curve(report.history, key="loss")))  # noqa: S704
        yield Drawn(Markup(figures.sqnr_curve(report.history, key="sqnr")))  # noqa: S704


def _mix_curve(report: Report) -> Markup:
    if report.mix is None or not figures.can_draw():
        return Markup("")
    return Markup(figures.mix_curve(report.mix, key="mix"))  # noqa: S704 # no text of the model's


def _integrity(script: str) -> str:
    """The hash by which the page's content security policy knows its own script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=numbers.percent,
        range_of=numbers.range_of,
        decibel=numbers.decibel,
        megabytes=numbers.megabytes,
        share=numbers.share,
        stage_line=numbers.stage_line,
        short=_short,
        sort_key=_sort_key,
        parts=_parts,
        height=height_of,
    )
    return environment


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _parts(name: str) -> list[str]:
    """The pieces of a name between which a line may end."""
    return _PART.findall(name)


def _sort_key(value: float) -> str:
    """A number for the page's script, which reads infinity as JavaScript writes it."""
    return f"{value:.6g}" if isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
