"""Every operator version that the installed ONNX knows is registered, or excluded with a reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onnx import defs

from onnxqat.bridge import ops as _families  # noqa: F401 - registers the operators
from onnxqat.bridge.ops.excluded import EXCLUDED
from onnxqat.bridge.ops.registry import listed_versions

OLDEST_OPSET = 7


def live_versions() -> Iterator[tuple[str, int]]:
    """The since-versions of ONNX's own operators that some opset from 7 on means."""
    versions: dict[str, set[int]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            versions.setdefault(schema.name, set()).add(schema.since_version)
    for name, known in sorted(versions.items()):
        oldest = max((v for v in known if v <= OLDEST_OPSET), default=OLDEST_OPSET)
        yield from ((name, version) for version in sorted(known) if version >= oldest)


def test_every_operator_version_is_registered_or_excluded() -> None:
    missing = [
        f"{name}-{version}"
        for name, version in live_versions()
        if version not in listed_versions(name) and name not in EXCLUDED
    ]
    assert not missing


def test_the_table_has_work_to_do() -> None:
    assert len(list(live_versions())) > 500


@pytest.mark.parametrize("name", EXCLUDED)
def test_what_is_excluded_is_an_operator_that_has_no_function(name: str) -> None:
    assert name in {known for known, _ in live_versions()}
    assert not listed_versions(name)
