"""Histograms and curves as inline SVG, drawn by matplotlib in the page's own colours and type.

No text that comes from a model is drawn here: matplotlib would read `$` as mathematics.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import isfinite
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree  # what it parses, matplotlib has just written

import numpy as np

from onnxqat.core.distribution import Distribution
from onnxqat.core.mixed_precision import Mix
from onnxqat.core.training_record import StepRecord, Validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITHOUT_MATPLOTLIB = (
    "The package matplotlib is not installed, so this is not drawn: "
    "pip install 'onnxqat[report]', then onnxqat report FOLDER."
)

LOGARITHMIC = 10
"""Losses that differ by more than this factor are drawn on a logarithmic axis."""

INK, MUTED, LINE, FIRST, SECOND, SHADE = (f"#0{i}0{i}0{i}" for i in range(1, 7))
"""Colours that stand for the page's: near-black ones, which nothing else uses."""
_IN_PAGE = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    SHADE: "var(--shade)",
}
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: small, and in the page's type
    "svg.hashsalt": "onnxqat",  # the same ids each time
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.minor.size": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "path.simplify": True,
    "axes.xmargin": 0.01,
}
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def histogram(shown: Distribution, *, key: str, unit: str = "magnitude") -> str:
    """How often each magnitude occurs, and where the quantizer clips; counts on a log axis.

    Args:
        shown: The tensor's distribution.
        key: Begins the ids in the SVG; another for each figure of a page.
        unit: What the axis measures.
    """
    edges = np.linspace(0, shown.extent, len(shown.counts) + 1)
    counts = np.maximum(np.array(shown.counts, float), 0.5)  # a log axis has no 0

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.stairs(counts, edges, baseline=0.5, fill=True, color=FIRST, alpha=0.75, linewidth=0)
        axes.axvspan(shown.amax, shown.extent, color=SHADE, alpha=0.5, linewidth=0)
        axes.axvline(shown.amax, color=SECOND, linewidth=2)
        axes.set_xlim(0, shown.extent * 1.01)
        axes.set_ylim(0.5, None)
        axes.set_xlabel(unit)
        axes.set_ylabel("values in a bin")

    label = f"Histogram of magnitudes up to {shown.extent:.3g}; clipped above {shown.amax:.3g}"
    return _figure(draw, key=key, label=label, size=(3.8, 2.0))


def loss_curve(history: Sequence[StepRecord], *, key: str) -> str:
    """Training loss of each step, and the same loss on the held-out samples."""
    losses = ((record.step, record.loss) for record in history)
    steps = [(step, loss) for step, loss in losses if loss is not None and isfinite(loss)]
    held_out = _validations(history, lambda found: found.loss)

    def draw(axes: Axes) -> None:
        if _spread([loss for _, loss in (*steps, *held_out)]) > LOGARITHMIC:
            axes.set_yscale("log")
        if steps:
            axes.plot(*zip(*steps, strict=True), color=MUTED, linewidth=1, label="training batch")
        _mark(axes, held_out, best=_best(history), label="held-out samples")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")

    return _figure(draw, key=key, label="Loss by step", size=(4.9, 2.6))


def sqnr_curve(history: Sequence[StepRecord], *, key: str) -> str:
    """Signal-to-quantization-noise ratio on the held-out samples."""
    found = _validations(history, lambda validation: validation.sqnr_db)

    def draw(axes: Axes) -> None:
        _mark(axes, found, best=_best(history), label="held-out samples")
        axes.set_xlabel("step")
        axes.set_ylabel("SQNR, dB")

    return _figure(draw, key=key, label="SQNR on held-out samples by step", size=(4.9, 2.6))


def mix_curve(mix: Mix, *, key: str) -> str:
    """What each plan that was tried keeps of the outputs, by what it quantizes."""
    tried = [(100 * p.quantized, p.sqnr_db) for p in mix.points if isfinite(p.sqnr_db)]
    chosen = (100 * mix.chosen.quantized, mix.chosen.sqnr_db)

    def draw(axes: Axes) -> None:
        style: Any = {"linestyle": "none", "marker": "o"}
        if tried:
            axes.plot(*zip(*tried, strict=True), color=FIRST, markersize=4, label="tried", **style)
        if isfinite(chosen[1]):
            axes.plot(*chosen, color=SECOND, markersize=9, fillstyle="none", label="kept", **style)
        axes.set_xlabel(f"quantized, % of the {mix.cost}")
        axes.set_ylabel("SQNR, dB")
        if axes.has_data():
            axes.legend(frameon=False, labelcolor=MUTED)

    return _figure(draw, key=key, label="SQNR by the share that is quantized", size=(4.9, 2.6))


Points = Sequence[tuple[int, float]]


def _validations(
    history: Sequence[StepRecord], value: Callable[[Validation], float]
) -> list[tuple[int, float]]:
    found = [(r.step, value(r.validation)) for r in history if r.validation is not None]
    return [(step, number) for step, number in found if isfinite(number)]


def _spread(values: Sequence[float]) -> float:
    """How many times the smallest value the largest is; 1 where one is not positive."""
    return max(values) / min(values) if values and min(values) > 0 else 1.0


def _best(history: Sequence[StepRecord]) -> int | None:
    return max((record.step for record in history if record.is_best), default=None)


def _mark(axes: Axes, points: Points, *, best: int | None, label: str) -> None:
    """A line through the points, and a ring around the one that was kept."""
    if not points:
        return
    axes.plot(
        *zip(*points, strict=True),
        color=FIRST,
        linewidth=2,
        marker="o",
        markersize=4,
        label=label,
    )
    kept = [point for point in points if point[0] == best]
    if kept:
        axes.plot(
            *zip(*kept, strict=True),
            linestyle="none",
            marker="o",
            markersize=10,
            markerfacecolor="none",
            markeredgecolor=SECOND,
            markeredgewidth=2,
            clip_on=False,
            label="kept",
        )
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, labelcolor=MUTED)


def _figure(
    draw: Callable[[Axes], None], *, key: str, label: str, size: tuple[float, float]
) -> str:
    """What `draw` draws, as an SVG element that takes its colours from the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        # The date is the one thing in the file that would differ each time.
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(file.getvalue(), key=key, label=label)


def _inlined(text: str, *, key: str, label: str) -> str:
    """The SVG without what a page does not need, and with ids that no other figure has."""
    root = ElementTree.fromstring(text)  # noqa: S314
    for part in root.findall(f"{_SVG}metadata"):
        root.remove(part)
    for definitions in root.findall(f"{_SVG}defs"):
        for sheet in definitions.findall(f"{_SVG}style"):
            definitions.remove(sheet)  # it would hold for the whole page
    _rename_ids(root, key)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if _XLINK in element.attrib:
            element.attrib["href"] = element.attrib.pop(_XLINK)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    svg = ElementTree.tostring(root, encoding="unicode")
    for stand_in, colour in _IN_PAGE.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r"font: [^;\"]*?(\d+)px[^;\"]*", r"font-size: \1px", svg)
    return re.sub(r"font-family: [^;\"]*;? ?", "", svg)  # as newer matplotlibs write it


def _rename_ids(root: Any, key: str) -> None:
    """Drop the ids that nothing refers to, and begin the others with `key`."""
    used = {
        match[1] or match[2]
        for element in root.iter()
        for value in element.attrib.values()
        for match in _REFERENCE.finditer(value)
    }
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.attrib["id"] = f"{key}-{name}"
        for attribute, value in element.attrib.items():
            element.attrib[attribute] = _REFERENCE.sub(
                lambda match: f"url(#{key}-{match[1]})" if match[1] else f"#{key}-{match[2]}", value
            )
