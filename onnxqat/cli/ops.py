"""The command that tells what the bridge covers: ops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.flags import Json

MISSING = 1
"""Exit code when an operator of the model has no torch function."""


def ops(
    *names: str,
    model: Annotated[
        Path | None,
        Parameter(
            name="--model", help="Only the operators of this model, and which nodes have them."
        ),
    ] = None,
    json: Json = False,
) -> int:
    """List the operators that can be trained through, version by version, and why others cannot.

    With --model, exit code 1 says that some operator of the model has no torch function.

    Args:
        names: Only these operators, as Conv or com.microsoft.Gelu.
    """
    from onnxqat.bridge.operators import operator_uses, operators
    from onnxqat.core.errors import ConfigError
    from onnxqat.graph import load
    from onnxqat.report.console import operators_table, uses_table

    if model is not None:
        uses = [use for use in operator_uses(load(model)) if not names or use.operator in names]
        show.result(uses, as_json=json, table=uses_table(uses))
        return 0 if all(use.is_covered for use in uses) else MISSING
    every = {operator.full_name: operator for operator in operators()}
    unknown = sorted(set(names) - set(every))
    if unknown:
        raise ConfigError(
            f"ONNX has no operator {', '.join(unknown)}",
            fix="names are as in onnxqat ops: Conv, com.microsoft.Gelu",
        )
    found = [operator for name, operator in every.items() if not names or name in names]
    show.result(found, as_json=json, table=operators_table(found))
    return 0


COMMANDS = (ops,)
