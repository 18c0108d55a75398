"""The plans of real models are those that were reviewed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.placement.golden import FOLDER, golden_file, golden_text, models
from tests.support.assets import needs_assets

pytestmark = needs_assets


@pytest.mark.parametrize("model", models(), ids=lambda path: path.stem)
def test_the_plan_is_the_reviewed_one(model: Path) -> None:
    assert golden_text(model) == golden_file(model).read_text(encoding="utf-8")


def test_every_reviewed_plan_has_its_model() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {path.stem for path in models()}
