"""Commands that do the whole job: run, demo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.flags import Folder, Json, PrintEvery, Resume
from onnxqat.core.files import make_folder

MISSED = 1
"""Exit code when the model does not reach the recipe's budget."""

HtmlFile = Annotated[
    Path | None,
    Parameter(name=["--output", "-o"], help="The file to write; report.html in the run's folder."),
]


def run(
    recipe: Path,
    /,
    *,
    out: Folder = Path("onnxqat-out"),
    control: Annotated[
        bool | None,
        Parameter(
            name="--control",
            help="Train the FP32 model alike, to tell the gain by quantization-aware training from "
            "that by more training; else as the recipe says.",
        ),
    ] = None,
    resume: Resume = False,
    print_every: PrintEvery = 0,
    json: Json = False,
) -> int:
    """Fine-tune a model by its recipe: every artefact in a folder, and one table.

    Several processes train together when torchrun starts them:
    torchrun --nproc-per-node 4 -m onnxqat run RECIPE --out DIR

    Args:
        recipe: The TOML file that names the model, the data and what is to be done.
    """
    from onnxqat.cli.progress import TrainingProgress
    from onnxqat.pipeline import Watch
    from onnxqat.pipeline import run as run_pipeline
    from onnxqat.recipe import read_recipe
    from onnxqat.report.console import summary_table
    from onnxqat.training.distributed import joined

    chosen = read_recipe(recipe)
    if control is not None:
        chosen = replace(chosen, control=control)
    with TrainingProgress(print_every=print_every) as progress, joined() as processes:
        watch = Watch(
            on_stage=lambda stage: show.log(f"{stage} …"),
            on_prepared=show.changes,
            on_finding=show.finding,
            on_gain=show.stage_gain,
            on_step=progress.show,
        )
        out = make_folder(out) if processes.is_first else out
        summary = run_pipeline(chosen, out, resume=resume, watch=watch)
    if not processes.is_first:
        return 0
    show.result(summary, as_json=json, table=summary_table(summary))
    show.log(f"all artefacts: {out}, to look at: {out / 'report.html'}")
    return 0 if summary.is_within_budget else MISSED


def demo(
    *, out: Folder = Path("onnxqat-out/demo"), print_every: PrintEvery = 0, json: Json = False
) -> int:
    """Do the whole job on a small model that the package ships: nothing to prepare."""
    for left in out.glob("*.checkpoint"):  # of a demo that was broken off: it is soon made again
        left.unlink()
    return run(_shipped("digits"), out=out, print_every=print_every, json=json)


def _shipped(name: str) -> Path:
    """The recipe of a shipped model: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_models" / name / "recipe.toml"
    return installed if installed.exists() else package.parent / "models" / name / "recipe.toml"


def report(run: Path, /, *, output: HtmlFile = None) -> int:
    """Render the page of a run again: one HTML file that loads nothing, to look at and to hand on.

    Args:
        run: The folder that `onnxqat run` wrote.
    """
    from onnxqat.core.files import check_writable, replacing
    from onnxqat.report.html import render
    from onnxqat.run_folder import read_report

    target = run / "report.html" if output is None else output
    page = render(read_report(run))
    check_writable(target)
    with replacing(target) as path:
        path.write_text(page, encoding="utf-8")
    show.log(f"report: {target}")
    return 0


COMMANDS = (demo, run, report)
