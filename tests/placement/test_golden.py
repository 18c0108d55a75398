"""The plans of real models and of well-known architectures are those that were reviewed."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxqat.graph import as_graph, load, prepare
from tests.placement.architectures import ARCHITECTURES
from tests.placement.golden import FOLDER, golden_file, golden_text, models
from tests.support.assets import needs_assets

GENERATED = FOLDER / "architectures"


@needs_assets
@pytest.mark.parametrize("model", models(), ids=lambda path: path.stem)
def test_the_plan_is_the_reviewed_one(model: Path) -> None:
    text = golden_text(prepare(load(model)))
    assert text == golden_file(model.stem).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_plan_of_an_architecture_is_the_reviewed_one(name: str) -> None:
    text = golden_text(prepare(as_graph(ARCHITECTURES[name]())))
    assert text == golden_file(name, GENERATED).read_text(encoding="utf-8")


@needs_assets
def test_every_reviewed_plan_has_its_model() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {path.stem for path in models()}
    assert {path.stem for path in GENERATED.glob("*.txt")} == ARCHITECTURES.keys()
