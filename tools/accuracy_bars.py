"""What the table of accuracies must reach. See bench_accuracy.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from accuracy_rows import FLOAT, WITH_LABELS, Result, rows_of

from onnxqat.core.interval import paired_change

Measure = Literal["sqnr_db", "agreement", "top1", "top1_change"]
WITHOUT_LABELS = ("ptq-auto", "init", "qat", "init+qat")


@dataclass(frozen=True)
class Bar:
    """What one of some rows must reach, in all measures at once."""

    model: str
    format: str
    rows: tuple[str, ...]
    at_least: tuple[tuple[Measure, float], ...]
    whose: str = "ours"


BARS = (
    Bar("resnet20", "int8", WITHOUT_LABELS, (("sqnr_db", 31.0),)),
    Bar("resnet20", "w4a8", WITHOUT_LABELS, (("sqnr_db", 23.0), ("top1_change", 0.0))),
    Bar("resnet20", "w4a4", (*WITHOUT_LABELS, "qat-labels"), (("top1_change", -0.02),)),
    Bar("kwt1", "int8", WITHOUT_LABELS, (("sqnr_db", 27.0),)),
    Bar("kwt1", "w4a8", WITHOUT_LABELS, (("sqnr_db", 20.0), ("agreement", 0.985))),
    Bar("mobilenet", "int8", WITHOUT_LABELS, (("sqnr_db", 21.5), ("agreement", 0.97))),
    Bar("mobilenet", "w4a8", WITHOUT_LABELS, (("agreement", 0.60),)),
)


def _peer(model: str, name: str, row: str, whose: str, **at_least: float) -> Bar:
    """What another tool reached on the same data with as many steps."""
    measures: tuple[Measure, ...] = ("sqnr_db", "agreement", "top1")
    pairs = tuple((measure, at_least[measure]) for measure in measures if measure in at_least)
    return Bar(model, name, (row,), pairs, whose)


PEERS = (
    _peer("resnet20", "int8", "ptq-max", "ModelOpt ONNX max", sqnr_db=27.4),
    _peer("resnet20", "int8", "ptq-entropy", "ONNX Runtime entropy", sqnr_db=24.8),
    _peer("resnet20", "int8", "ptq-percentile", "ONNX Runtime percentile", sqnr_db=26.7),
    _peer("resnet20", "int8", "init-sequential_mse", "AIMET sequential MSE", sqnr_db=24.8),
    _peer("resnet20", "int8", "init-adaround", "AIMET AdaRound", sqnr_db=24.8),
    _peer("resnet20", "int8", "init", "AIMET sequential MSE, AdaRound", sqnr_db=24.8),
    _peer("resnet20", "w4a8", "ptq-max", "AIMET plain", sqnr_db=11.8),
    _peer("resnet20", "w4a8", "ptq-auto", "AIMET sequential MSE", sqnr_db=14.4),
    _peer("resnet20", "w4a8", "init-sequential_mse", "AIMET sequential MSE", sqnr_db=14.4),
    _peer("resnet20", "w4a8", "init-adaround", "AIMET AdaRound", sqnr_db=18.2, top1=0.915),
    _peer("resnet20", "w4a8", "init", "AIMET AdaRound", sqnr_db=18.2, top1=0.915),
    _peer("resnet20", "w4a8", "qat-labels", "ModelOpt QAT, a third of the steps", top1=0.913),
    _peer("resnet20", "int8", "qat-labels", "ModelOpt QAT", top1=0.911),
    _peer("mobilenet", "int8", "ptq-max", "every tool", sqnr_db=14.3),
    _peer("mobilenet", "int8", "ptq-auto", "every tool", sqnr_db=14.3, agreement=0.93),
    _peer("kwt1", "int8", "ptq-max", "ModelOpt ONNX max", sqnr_db=15.6),
    _peer("kwt1", "int8", "ptq-percentile", "ONNX Runtime percentile", sqnr_db=16.1),
    _peer("kwt1", "int8", "ptq-entropy", "ModelOpt ONNX entropy", sqnr_db=23.4),
    _peer("kwt1", "int8", "ptq-auto", "ModelOpt ONNX entropy", sqnr_db=23.4, agreement=0.991),
    _peer("kwt1", "w4a8", "ptq-max", "every tool", sqnr_db=13.0),
    _peer("kwt1", "w4a8", "ptq-mse", "every tool", sqnr_db=12.7),
)
"""From measurements of other tools on these models: the best of each row. MobileNet's were judged
on 500 images, for which they calibrated on 500 others."""

Table = Mapping[tuple[str, str, str], Result]
"""(model, format, row) -> what it came to."""


@dataclass(frozen=True)
class Verdict:
    """What became of a bar."""

    text: str
    state: Literal["met", "missed", "open"]


def verdicts(table: Table, bars: Sequence[Bar] = (*BARS, *PEERS)) -> Iterator[Verdict]:
    """Each bar, and that no training made its start worse."""
    for bar in bars:
        yield _judged(bar, table)
    yield from _trained_against_start(table)


def _judged(bar: Bar, table: Table) -> Verdict:
    """Open as long as a row that might meet it is not there."""
    float_row = table.get((bar.model, FLOAT, "fp32"))
    found = {row: table.get((bar.model, bar.format, row)) for row in bar.rows}
    wanted = " and ".join(f"{name} {_number(name, least)}" for name, least in bar.at_least)
    text = f"{bar.model} {bar.format} {' / '.join(bar.rows)}: {wanted} ({bar.whose})"
    if float_row is None:
        return Verdict(text, "open")
    base = float_row.top1
    reached = {
        row: [(name, result.measure(name, base)) for name, _ in bar.at_least]
        for row, result in found.items()
        if result is not None
    }
    for row, values in reached.items():
        if all(v >= least for (_, v), (_, least) in zip(values, bar.at_least, strict=True)):
            return Verdict(f"{text}: {_told(row, values, found[row])}", "met")
    best = max(reached.items(), key=lambda item: item[1][0][1], default=None)
    told = "" if best is None else f": {_told(*best, found[best[0]])}"
    return Verdict(text + told, "open" if None in found.values() else "missed")


def _trained_against_start(table: Table) -> Iterator[Verdict]:
    """Training must not lose top-1; without labels, nor signal."""
    for (model, in_format, name), result in table.items():
        row = next(row for row in rows_of(in_format) if row.name == name)
        start = table.get((model, in_format, row.start or ""))
        if row.loss is None or in_format == FLOAT:
            continue
        text = f"{model} {in_format} {name} against {row.start}"
        if start is None:
            yield Verdict(text, "open")
            continue
        measures: tuple[Measure, ...] = (
            ("top1",) if row.loss == WITH_LABELS else ("sqnr_db", "top1")
        )
        for measure in measures:
            after, before = (x.measure(measure, 0.0) for x in (result, start))
            told = f"{measure} {_number(measure, before)} to {_number(measure, after)}"
            yield Verdict(f"{text}: {told}", "met" if after >= before else "missed")


def _told(row: str, values: Sequence[tuple[str, float]], result: Result | None) -> str:
    told = [f"{name} {_number(name, value)}" for name, value in values]
    if result is not None and any(name == "top1_change" for name, _ in values):
        interval = paired_change(result.lost, result.gained, result.samples)
        told += [] if interval is None else ["95 % sure {:+.1%} to {:+.1%}".format(*interval)]
    return f"{row} has " + ", ".join(told)


def _number(measure: str, value: float) -> str:
    if measure == "sqnr_db":
        return f"{value:.1f} dB" if isfinite(value) else "∞ dB"
    sign = "+" if measure == "top1_change" else ""
    return f"{100 * value:{sign}.1f} %"
