"""The plans of networks as text, one line an edge that a rule asked about.

`python -m tests.placement.golden` writes them anew; review what changed before you commit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnxqat.core.plan import Placement, QuantPlan, Skip
from onnxqat.graph import Graph, as_graph, load, prepare
from onnxqat.placement import PlacementConfig, place
from onnxqat.placement.explain import describe
from tests.placement.architectures import ARCHITECTURES
from tests.support.assets import MODELS, WILD

FOLDER = Path(__file__).parent / "golden"
"""Of the pretrained models; those of generated networks lie in `architectures` there."""


def models() -> list[Path]:
    """The pretrained models that are there, in order."""
    return sorted((*MODELS.glob("*.onnx"), *WILD.glob("*.onnx")))


def golden_text(graph: Graph) -> str:
    """The plan of a prepared graph: placements, then what stays in float though a rule is about it.

    That of the profile `tensorrt`, then the lines in which that of `rtx` differs.
    """
    lines = list(_lines(place(graph)))
    others = list(_lines(place(graph, config=PlacementConfig(profile="rtx"))))
    known = set(lines)
    return "".join([*lines, *(f"rtx: {line}" for line in others if line not in known)])


def golden_file(name: str, folder: Path = FOLDER) -> Path:
    """Where the reviewed plan of a network lies."""
    return folder / f"{name}.txt"


def _lines(plan: QuantPlan) -> Iterator[str]:
    skips = [x for x in plan.skips if x.rule != "left_in_float"]
    decisions: list[Placement | Skip] = [*plan.placements, *skips]
    for decision in decisions:
        what = describe(plan, decision) if isinstance(decision, Placement) else "float"
        yield f"{decision.edge}: {what} ({decision.rule})\n"


def main() -> None:
    """Write them all."""
    texts = {golden_file(path.stem): golden_text(prepare(load(path))) for path in models()}
    for name, network in ARCHITECTURES.items():
        file = golden_file(name, FOLDER / "architectures")
        texts[file] = golden_text(prepare(as_graph(network())))
    for file, text in texts.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
