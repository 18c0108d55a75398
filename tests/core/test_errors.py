"""An error says what is wrong, where, and what to do."""

from __future__ import annotations

import pytest

from onnxqat.core import errors
from onnxqat.core.errors import ModelError, OnnxqatError


def test_an_error_names_problem_places_and_fix() -> None:
    error = ModelError(
        "Erf is not implemented", node="/enc/Erf", tensor="x", at="file 'm.onnx'", fix="exclude it"
    )

    assert str(error) == (
        "Erf is not implemented\n"
        "  at:  node '/enc/Erf', tensor 'x', file 'm.onnx'\n"
        "  fix: exclude it"
    )


def test_an_error_without_place_and_fix_is_one_line() -> None:
    assert str(OnnxqatError("no")) == "no"


@pytest.mark.parametrize(
    "kind", [value for value in vars(errors).values() if isinstance(value, type)]
)
def test_every_error_is_one_that_the_command_line_prints(kind: type) -> None:
    assert issubclass(kind, OnnxqatError)
