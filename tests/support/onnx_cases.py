"""ONNX's own node test cases, collected once: a second time in one process gives none."""

from __future__ import annotations

import warnings
from functools import cache

from onnx.backend.test.case.test_case import TestCase


@cache
def node_cases() -> tuple[TestCase, ...]:
    """All cases with a model, sorted by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases divide by zero on purpose
        found = collect_testcases("")
    assert found, "something else in this process has collected the cases"
    return tuple(sorted((case for case in found if case.model), key=lambda case: case.name))
