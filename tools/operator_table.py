"""Write onnxqat/bridge/OPERATORS.md: the operators that can be trained through.

    python tools/operator_table.py [--check]

The same as `onnxqat ops`, as a page. With --check, only says whether the page is current: exit code
1 if not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx

from onnxqat.bridge.operators import operators
from onnxqat.core.operators import Operator

PAGE = Path(__file__).resolve().parents[1] / "onnxqat" / "bridge" / "OPERATORS.md"
HEAD = """\
# Operators

What `onnxqat finetune` can train through: the operators of the domains that onnx {onnx} knows, and
those of other domains that the bridge has. A version is the opset since which an operator is as it
is. `onnxqat ops` prints the same for the installed onnx, and `onnxqat ops --model MODEL` for a
model. An operator that is not covered stops `finetune`, unless `--fallback onnxruntime` lets ONNX
Runtime run it as it is, with no gradient through it.

{covered} of {known} operator versions of ONNX's own domain from opset 7 on are covered. ONNX's own
backend tests run through the bridge in the test suite.

Written by `python tools/operator_table.py`.
"""
PAST = "only in opsets before 7"


def page() -> str:
    """The page for the installed onnx."""
    found = operators()
    own = [v for operator in found if not operator.domain for v in operator.versions]
    known = [version for version in own if version.reason != PAST]
    head = HEAD.format(
        onnx=onnx.__version__,
        covered=sum(version.is_covered for version in known),
        known=len(known),
    )
    return head + "".join(_section(domain, found) for domain in _domains(found))


def _domains(found: tuple[Operator, ...]) -> list[str]:
    return sorted({operator.domain for operator in found})


def _section(domain: str, found: tuple[Operator, ...]) -> str:
    rows = "\n".join(
        row for operator in found if operator.domain == domain for row in _row(operator)
    )
    title = f"`{domain}`" if domain else "ONNX's own"
    return f"\n## {title}\n\n| operator | versions covered | not covered |\n|---|---|---|\n{rows}\n"


def _row(operator: Operator) -> Iterator[str]:
    missing = "; ".join(
        f"{_numbers(versions)}: {reason}" for reason, versions in operator.reasons.items()
    )
    yield f"| {operator.name} | {_numbers(operator.covered) or '–'} | {missing} |"


def _numbers(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions))


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    is_current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
    print(f"{PAGE.name} is {'current' if is_current else 'out of date: run this tool'}")
    return 0 if is_current else 1


if __name__ == "__main__":
    sys.exit(main())
