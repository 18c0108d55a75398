"""The head of a page: the figures that matter, and whether they are within budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxqat.core.interval import Interval
from onnxqat.core.summary import BudgetCheck, Gain, ModelRow, Summary
from onnxqat.report.numbers import (
    NOTHING,
    decibel,
    megabytes,
    percent,
    points,
    range_of,
    range_of_change,
    share,
)


@dataclass(frozen=True)
class Tile:
    """One figure of the model that the run was for."""

    label: str
    value: str
    others: tuple[tuple[str, str], ...]
    """What to hold it against: the other models' names and figures."""
    interval: str = ""
    """Where it lies, 95 % sure; empty where it was not counted on samples."""


@dataclass(frozen=True)
class BudgetLine:
    """One thing that was asked for, in words."""

    is_met: bool
    text: str


REFERENCE = "FP32"
RESULT = "QAT"
"""The model that a run is for; a control may come after it."""


def tiles(summary: Summary) -> tuple[Tile, ...]:
    """The figures of the result against the other models; those that were not measured left out."""
    row = next((row for row in summary.rows if row.name == RESULT), summary.rows[-1])
    others = [other for other in summary.rows if other is not row]
    metric = summary.metric or "metric"
    found = (
        replace(
            _tile(metric, row, others, lambda model: percent(model.metric)),
            interval=_percent(range_of(row.metric_interval)),
        ),
        replace(
            _tile(f"{metric} against FP32", row, others, _change),
            interval=range_of_change(row.metric_change_interval),
        ),
        replace(
            _tile("agreement with FP32", row, others, lambda model: percent(model.agreement)),
            interval=_percent(range_of(row.agreement_interval)),
        ),
        _tile("SQNR, worst output", row, others, lambda model: decibel(model.sqnr_db)),
        _tile("matrix products in INT8 or FP8", row, others, _int8_share),
        _tile("activations moved", row, others, lambda model: megabytes(model.activation_bytes)),
    )
    return tuple(tile for tile in found if tile.value != NOTHING)


def _percent(text: str) -> str:
    return f"{text} %" if text else ""


def _change(row: ModelRow) -> str:
    return NOTHING if row.metric_change is None else points(row.metric_change)


def _tile(
    label: str, row: ModelRow, others: Sequence[ModelRow], text: Callable[[ModelRow], str]
) -> Tile:
    known = ((other.name, text(other)) for other in others)
    return Tile(label, text(row), tuple(pair for pair in known if pair[1] != NOTHING))


@dataclass(frozen=True)
class GainLine:
    """What the training did to one model, in words, and whether that may be chance."""

    text: str
    may_be_chance: bool
    """Whether there may be none: for a change from FP32, which is counted sample by sample, whether
    its interval holds 0; else whether the two intervals of the metric overlap."""


def gain_lines(summary: Summary) -> tuple[GainLine, ...]:
    """Each gain of the run, from model to model."""
    rows = {row.name: row for row in summary.rows}
    return tuple(_gain_line(gain, rows, summary.metric or "metric") for gain in summary.gains)


def _gain_line(gain: Gain, rows: Mapping[str, ModelRow], metric: str) -> GainLine:
    told = [] if gain.metric is None else [f"{metric} {points(gain.metric)}"]
    told += [] if gain.sqnr_db is None else [f"SQNR {gain.sqnr_db:+.1f} dB".replace("-", "−")]
    text = f"{gain.start} → {gain.model}: {', '.join(told) or 'not measured'}"
    return GainLine(text, may_be_chance=gain.metric is not None and _may_be_none(gain, rows))


def _may_be_none(gain: Gain, rows: Mapping[str, ModelRow]) -> bool:
    counted = rows[gain.model].metric_change_interval if gain.model in rows else None
    if gain.start == REFERENCE and counted is not None:
        return counted[0] <= 0 <= counted[1]
    return _overlap(
        [rows[name].metric_interval for name in (gain.start, gain.model) if name in rows]
    )


def _overlap(intervals: Sequence[Interval | None]) -> bool:
    known = [interval for interval in intervals if interval is not None]
    return len(known) == 2 and known[0][0] <= known[1][1] and known[1][0] <= known[0][1]


def _int8_share(row: ModelRow) -> str:
    return share(row.int8_nodes, row.heavy_nodes)


def budget_lines(summary: Summary) -> tuple[BudgetLine, ...]:
    """Each thing that the recipe's budget asks for, and what came out."""
    return tuple(
        BudgetLine(check.is_met, _SENTENCES[check.name](check, summary.metric or "metric"))
        for check in summary.budget
    )


def _drop(check: BudgetCheck, metric: str) -> str:
    limit = f"{metric} may drop by {100 * check.limit:.2g} points"
    if check.found is None:
        return f"{limit}; it was not measured"
    word = "dropped" if check.found > 0 else "rose"
    return f"{limit}; it {word} by {abs(100 * check.found):.2f}"


def _agreement(check: BudgetCheck, _: str) -> str:
    return f"agreement with FP32 at least {percent(check.limit)}; it is {percent(check.found)}"


def _sqnr(check: BudgetCheck, _: str) -> str:
    return f"SQNR at least {decibel(check.limit)}; it is {decibel(check.found)}"


_SENTENCES = {"metric_drop": _drop, "agreement": _agreement, "sqnr_db": _sqnr}
