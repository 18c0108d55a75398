"""Where the pretrained models and data for tests lie, beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

ASSETS = Path(__file__).resolve().parents[3] / "shared" / "assets"
MODELS = ASSETS / "models"
WILD = ASSETS / "wild"
DATA = ASSETS / "data"

needs_assets = pytest.mark.skipif(
    not ASSETS.is_dir(), reason=f"the pretrained models are not at {ASSETS}"
)
