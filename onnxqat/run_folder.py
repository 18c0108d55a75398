"""The folder of one run: what lies in it, and under what names.

Every file is written whole or not at all.

    fp32.onnx  changes.json                 the prepared FP32 model, and what preparing changed
    plan.json  calibration.json             which edges get Q/DQ and why; the ranges
    ptq.onnx   qat.onnx   history.json      after calibration; after fine-tuning; the training
    comparison.json                         PTQ and QAT against FP32 on the test data
    {fp32,ptq,qat}.engine  *.engine.json    the compiled engines, and what each is made of
    findings.json  summary.json             the audit; the table
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxqat.core.calibration import Calibration
from onnxqat.core.codec import encode
from onnxqat.core.comparison import Comparison
from onnxqat.core.engine_plan import EnginePlan
from onnxqat.core.files import make_folder, replacing
from onnxqat.core.finding import Finding
from onnxqat.core.plan import QuantPlan
from onnxqat.core.summary import Summary
from onnxqat.graph import Change, Graph, save
from onnxqat.training import Finetuned


class RunFolder:
    """Writes the artefacts of a run."""

    def __init__(self, path: Path) -> None:
        """Make the folder.

        Raises:
            ConfigError: It cannot be made or written.
        """
        self.path = make_folder(path)

    def model_path(self, name: str) -> Path:
        """Where the model `fp32`, `ptq` or `qat` lies."""
        return self.path / f"{name.lower()}.onnx"

    def model_sizes(self) -> dict[str, int]:
        """Bytes on disk of each model, external data included, by name in upper case."""
        return {
            path.stem.upper(): sum(part.stat().st_size for part in self.path.glob(f"{path.name}*"))
            for path in sorted(self.path.glob("*.onnx"))
        }

    def save_prepared(self, graph: Graph, changes: Sequence[Change]) -> None:
        """The prepared FP32 model, and what preparing it changed."""
        self.save_model("fp32", graph)
        self._save_json("changes.json", tuple(changes))

    def save_model(self, name: str, graph: Graph) -> None:
        """A model, under its name in lower case."""
        save(graph, self.model_path(name))

    def save_plan(self, plan: QuantPlan) -> None:
        """Which edges get Q/DQ, and why."""
        self._save_json("plan.json", plan)

    def save_calibration(self, calibration: Calibration) -> None:
        """The ranges."""
        self._save_json("calibration.json", calibration)

    def save_history(self, tuned: Finetuned) -> None:
        """The training, step by step."""
        self._save_json("history.json", tuned.history)

    def save_comparisons(self, comparisons: dict[str, Comparison]) -> None:
        """The quantized models against FP32, by name."""
        encoded = {name.lower(): encode(comparison) for name, comparison in comparisons.items()}
        self._save_json("comparison.json", encoded)

    def save_engine(self, name: str, engine: bytes, plan: EnginePlan) -> None:
        """A compiled engine, and what it is made of."""
        with replacing(self.path / f"{name}.engine") as path:
            path.write_bytes(engine)
        self._save_json(f"{name}.engine.json", plan)

    def save_findings(self, findings: Sequence[Finding]) -> None:
        """What did not run or learn as expected, and what the audit objects to in the result."""
        self._save_json("findings.json", tuple(findings))

    def save_summary(self, summary: Summary) -> None:
        """The table."""
        self._save_json("summary.json", summary)

    def _save_json(self, name: str, value: Any) -> None:
        with replacing(self.path / name) as path:
            path.write_text(json.dumps(encode(value), indent=2) + "\n", encoding="utf-8")
