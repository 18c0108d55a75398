"""Training on a terminal: a bar with loss, metric and time left, and lines for logs. On stderr."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from typing_extensions import Self

    from onnxqat.training import StepRecord


class TrainingProgress:
    """Shows the records of a fine-tuning run as they come."""

    def __init__(self, *, print_every: int) -> None:
        """Print a line every so many steps as well; 0: only where the model was validated."""
        self._print_every = print_every
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("finetune"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, record: StepRecord) -> None:
        """One step further."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("finetune", total=record.steps, loss="")
        loss = f"loss {record.loss:.4g}" if record.loss is not None else ""
        self._bar.update(self._bar.task_ids[0], completed=record.step, loss=loss)
        due = self._print_every and record.step % self._print_every == 0
        if due or record.validation is not None:
            self._console.print(_line(record), soft_wrap=True)


def _line(record: StepRecord) -> str:
    parts = [f"step {record.step}/{record.steps}"]
    if record.loss is not None:
        parts.append(f"loss {record.loss:.4g}")
    if record.validation is not None:
        found = record.validation
        parts.append(f"held-out loss {found.loss:.4g}, {found.sqnr_db:.1f} dB")
        if found.agreement is not None:
            parts.append(f"agreement {100 * found.agreement:.1f} %")
        if found.top1 is not None:
            parts.append(f"top-1 {100 * found.top1:.1f} %")
        parts.append("best so far" if record.is_best else "")
    return "  ".join(part for part in [*parts, f"{record.seconds:.0f} s"] if part)
