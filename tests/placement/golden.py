"""The plans of the pretrained models as text, one line an edge that a rule asked about.

`python -m tests.placement.golden` writes them anew; review what changed before you commit it.
"""

from __future__ import annotations

from pathlib import Path

from onnxqat.core.plan import Placement, QuantPlan, Skip
from onnxqat.graph import load, prepare
from onnxqat.placement import place
from onnxqat.placement.explain import describe
from tests.support.assets import MODELS, WILD

FOLDER = Path(__file__).parent / "golden"


def models() -> list[Path]:
    """The pretrained models that are there, in order."""
    return sorted((*MODELS.glob("*.onnx"), *WILD.glob("*.onnx")))


def golden_text(model: Path) -> str:
    """The plan of a model: placements, then what stays in float though a rule is about it."""
    plan = place(prepare(load(model)))
    skips = [x for x in plan.skips if x.rule != "left_in_float"]
    decisions: list[Placement | Skip] = [*plan.placements, *skips]
    return "".join(f"{_line(plan, x)}\n" for x in decisions)


def golden_file(model: Path) -> Path:
    """Where the reviewed plan of a model lies."""
    return FOLDER / f"{model.stem}.txt"


def _line(plan: QuantPlan, decision: Placement | Skip) -> str:
    what = describe(plan, decision) if isinstance(decision, Placement) else "float"
    return f"{decision.edge}: {what} ({decision.rule})"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path in models():
        golden_file(path).write_text(golden_text(path), encoding="utf-8")
