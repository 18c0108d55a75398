"""Numbers as people read them. What was not measured is a dash."""

from __future__ import annotations

from math import inf

from onnxqat.core.stage_gain import StageGain

MEGA = 1e6
NOTHING = "–"


def percent(value: float | None) -> str:
    """A share (0 to 1) as `91.5 %`."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def percent_within(value: float | None, interval: tuple[float, float] | None) -> str:
    """A share and where it lies, 95 % sure, as `91.5 % (90.1–92.7)`."""
    if value is None or interval is None:
        return percent(value)
    return f"{percent(value)} ({range_of(interval)})"


def range_of(interval: tuple[float, float] | None) -> str:
    """Where a share lies as `90.1–92.7`; nothing where that is not known."""
    if interval is None:
        return ""
    low, high = (100 * bound for bound in interval)
    return f"{low:.1f}–{high:.1f}"


def points(value: float) -> str:
    """A difference of shares as `+0.5 points`."""
    return f"{100 * value:+.1f} points".replace("-", "−")


def points_within(value: float | None, interval: tuple[float, float] | None) -> str:
    """A difference of shares and where it lies, 95 % sure, as `−0.4 points (−1.2 to +0.4)`."""
    if value is None:
        return NOTHING
    return points(value) if interval is None else f"{points(value)} ({range_of_change(interval)})"


def range_of_change(interval: tuple[float, float] | None) -> str:
    """Where a difference of shares lies as `−1.2 to +0.4`; nothing where that is not known."""
    if interval is None:
        return ""
    low, high = (f"{100 * bound:+.1f}".replace("-", "−") for bound in interval)
    return f"{low} to {high}"


def megabytes(value: int | None) -> str:
    """Bytes as `1.991 MB`."""
    return NOTHING if value is None else f"{value / MEGA:.3f} MB"


def decibel(value: float | None) -> str:
    """A ratio in dB as `29.8 dB`; ∞ where nothing differs."""
    if value is None:
        return NOTHING
    return "∞ dB" if value == inf else f"{value:.1f} dB".replace("-", "−")


def share(part: int | None, whole: int | None) -> str:
    """A count of a whole as `20 / 20`."""
    return NOTHING if part is None else f"{part} / {whole}"


def stage_line(gain: StageGain) -> str:
    """An initialization stage as `bias_correction: 28.1 dB → 28.7 dB in 3.2 s`."""
    verdict = "" if gain.kept else "; worse, so undone"
    ratios = f"{decibel(gain.before_db)} → {decibel(gain.after_db)}"
    return f"{gain.stage}: {ratios} in {gain.seconds:.1f} s{verdict}"
