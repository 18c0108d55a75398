"""Whatever a user may name as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxqat.core.errors import DataError
from onnxqat.data import open_data
from tests.support.datasets import IMAGE


@pytest.mark.parametrize("source", ["none.npz", "none.py", "none.py:f", "none", "no.such.module:f"])
def test_data_that_is_not_there_is_named_with_a_fix(source: str) -> None:
    with pytest.raises(DataError, match=r"none|no\.such\.module") as caught:
        open_data(source, (IMAGE,))
    assert caught.value.fix is not None


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither"):
        open_data(str(tmp_path), (IMAGE,))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"data\.csv' is no data"):
        open_data(str(tmp_path / "data.csv"), (IMAGE,))
