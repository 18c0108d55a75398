"""Where results, progress and logs go: results to stdout, all else to stderr."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from onnxqat.core.codec import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, RenderableType

    from onnxqat.core.finding import Finding
    from onnxqat.core.stage_gain import StageGain
    from onnxqat.graph import Change

PIPE_WIDTH = 200
"""Columns when the output is no terminal: a table in a log should not be folded at 80."""


def result(value: Any, *, as_json: bool, table: RenderableType) -> None:
    """Print a result on stdout: `value` as JSON, or the table made of it."""
    if as_json:
        json.dump(encode(value), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    _console(stderr=False).print(table)


def text(written: str) -> None:
    """Print a result that is text already, as it is, on stdout."""
    sys.stdout.write(f"{written}\n")


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def log(line: str) -> None:
    """One line for a person, on stderr."""
    sys.stderr.write(f"{line}\n")


def changes(made: Iterable[Change]) -> None:
    """What preparing changed, counted by kind: the whole list would bury everything else."""
    for kind, count in Counter(change.kind for change in made).items():
        log(f"prepare: {kind}: {count}")


def stage_gain(gain: StageGain) -> None:
    """What an initialization stage did, on stderr."""
    from onnxqat.report.numbers import stage_line

    log(stage_line(gain))


def to_stderr(table: RenderableType) -> None:
    """Something for a person beside the result."""
    _console(stderr=True).print(table)


def finding(one: Finding) -> None:
    """A finding that a person should see at once, on stderr."""
    from onnxqat.report.console import findings_table

    to_stderr(findings_table([one]))
