"""The folder of one run: what lies in it, and under what names.

Every file is written whole or not at all.

    fp32.onnx  changes.json                 the prepared FP32 model, and what preparing changed
    plan.json  calibration.json             which edges get Q/DQ and why; the ranges
    mix.json                                with a budget of mixed precision: plan and ranges anew
    ptq.onnx   qat.onnx                     after calibration; after fine-tuning
    init.onnx  initialization.json          with initialization: in between; what each stage gained
    history.json  history.csv  tensorboard/ the training; the table is written while it goes
    stages.json  qat.checkpoint             what --resume goes on from; the latter until the end
    control.onnx  control.history.csv       with a control: FP32 after the same training
    comparison.json                         PTQ and QAT against FP32 on the test data
    {fp32,ptq,qat}.engine  *.engine.json    the compiled engines, and what each is made of
    inner_errors.json  distributions.json   the same, tensor by tensor; what the quantizers meet
    findings.json  summary.json             the audit; the table
    provenance.json                         hashes, versions, and the settings in force
    report.html                             all of it, to look at
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onnxqat.core.calibration import Calibration
from onnxqat.core.codec import decode, encode
from onnxqat.core.comparison import Comparison
from onnxqat.core.distribution import Distribution
from onnxqat.core.engine_plan import EnginePlan
from onnxqat.core.errors import ConfigError
from onnxqat.core.files import make_folder, replacing
from onnxqat.core.finding import Finding
from onnxqat.core.mixed_precision import Mix
from onnxqat.core.plan import QuantPlan
from onnxqat.core.provenance import Provenance
from onnxqat.core.stage_gain import StageGain
from onnxqat.core.summary import Summary
from onnxqat.core.training_record import StepRecord
from onnxqat.graph import Change, Graph, load, save
from onnxqat.report.html import Report, View, render

if TYPE_CHECKING:
    from onnxqat.training import Finetuned

T = TypeVar("T")
CHECKPOINT = "{}.checkpoint"
"""Name of the file that a training is kept in."""
RUN = "run"
"""All stages together."""
STAGES = "stages.json"
"""Stage -> the key of what its artefacts were made of."""


class RunFolder:
    """Writes the artefacts of a run."""

    def __init__(self, path: Path) -> None:
        """Make the folder.

        Raises:
            ConfigError: It cannot be made or written.
        """
        self.path = make_folder(path)

    def begun(self, *, resume: bool) -> RunFolder:
        """This folder, without what an earlier run left to go on from unless that is wanted.

        Raises:
            ConfigError: An unfinished run lies there, and this is a new one.
        """
        left = next(self.path.glob("*.checkpoint"), None)
        if left is not None and not resume:
            raise ConfigError(
                f"an unfinished run lies in {self.path}",
                fix=f"go on with it by --resume, choose another --out, or remove {left}",
            )
        if not resume:
            (self.path / STAGES).unlink(missing_ok=True)
        return self

    def checkpoint_path(self, name: str) -> Path:
        """Where the training of a model is kept while it goes on."""
        return self.path / CHECKPOINT.format(name)

    def history_path(self, name: str) -> Path:
        """Where the table of a training is written while it goes on."""
        return self.path / ("history.csv" if name == "qat" else f"{name}.history.csv")

    def is_done(self, stage: str, key: str) -> bool:
        """Whether the stage's artefacts are there, made of what the key stands for."""
        return bool(self._stages().get(stage) == key)

    def mark_done(self, stage: str, key: str) -> None:
        """Say so, once they are written."""
        self._save_json(STAGES, {**self._stages(), stage: key})

    def _stages(self) -> dict[str, str]:
        return _parsed(self.path / STAGES) or {}

    def digest_of(self, *names: str) -> str:
        """Of the content of files in the folder; of a model, with its weights in other files."""
        digest = hashlib.sha256()
        for path in sorted(found for name in names for found in self.path.glob(f"{name}*")):
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()

    def finish(self, key: str) -> None:
        """The run that the key stands for is complete: there is nothing to go on from."""
        self.mark_done(RUN, key)
        for path in self.path.glob("*.checkpoint"):
            path.unlink()

    def read_calibration(self) -> Calibration | None:
        """The ranges that a run left, if it did."""
        return _read(self.path / "calibration.json", Calibration)

    def read_initialization(self) -> tuple[Graph, tuple[StageGain, ...]] | None:
        """The initialized model and its stages' gains that a run left, if it did."""
        gains = _read(self.path / "initialization.json", tuple[StageGain, ...])
        path = self.model_path("init")
        return (load(path), gains) if gains is not None and path.exists() else None

    def read_summary(self) -> Summary | None:
        """The table that a run left, if it did."""
        return _read(self.path / "summary.json", Summary)

    def model_path(self, name: str) -> Path:
        """Where the model `fp32`, `ptq`, `init` or `qat` lies."""
        return self.path / f"{name.lower()}.onnx"

    def models(self) -> dict[str, Path]:
        """The models that are there, by name."""
        return {path.stem: path for path in sorted(self.path.glob("*.onnx"))}

    def model_sizes(self) -> dict[str, int]:
        """Bytes on disk of each model, external data included, by name in upper case."""
        return {
            path.stem.upper(): sum(part.stat().st_size for part in self.path.glob(f"{path.name}*"))
            for path in self.models().values()
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

    def save_mix(self, found: Mix) -> None:
        """The plan in mixed precision and its ranges, and how it was found."""
        self._save_json("mix.json", found)

    def read_mix(self) -> Mix | None:
        """What a budget of mixed precision came to in a run that was stopped, if it did."""
        return _read(self.path / "mix.json", Mix)

    def forget_mix(self) -> None:
        """Remove what another recipe left."""
        (self.path / "mix.json").unlink(missing_ok=True)

    def save_calibration(self, calibration: Calibration) -> None:
        """The ranges."""
        self._save_json("calibration.json", calibration)

    def save_initialization(self, graph: Graph, gains: Sequence[StageGain]) -> None:
        """The initialized model, and what each stage gained."""
        self.save_model("init", graph)
        self._save_json("initialization.json", tuple(gains))

    def save_history(self, tuned: Finetuned) -> None:
        """The training, step by step."""
        self._save_json("history.json", tuned.history)

    def save_comparisons(self, comparisons: dict[str, Comparison]) -> None:
        """The quantized models against FP32, by name."""
        self._save_json("comparison.json", _by_name(comparisons))

    def save_inner_errors(self, comparisons: dict[str, Comparison]) -> None:
        """The quantized models against the prepared FP32 model, tensor by tensor, by name."""
        self._save_json("inner_errors.json", _by_name(comparisons))

    def save_distributions(self, distributions: Sequence[Distribution]) -> None:
        """What the quantizers of the fine-tuned model meet."""
        self._save_json("distributions.json", tuple(distributions))

    def save_engine(self, name: str, engine: bytes, plan: EnginePlan) -> None:
        """A compiled engine, and what it is made of."""
        with replacing(self.path / f"{name}.engine") as path:
            path.write_bytes(engine)
        self._save_json(f"{name}.engine.json", plan)

    def save_findings(self, findings: Sequence[Finding]) -> None:
        """What did not run or learn as expected, and what the audit objects to in the result."""
        self._save_json("findings.json", tuple(findings))

    def save_summary(self, summary: Summary, provenance: Provenance) -> None:
        """The table, where it comes from, and the page that shows all that the folder holds."""
        self._save_json("summary.json", summary)
        self._save_json("provenance.json", provenance)
        with replacing(self.path / "report.html") as path:
            path.write_text(render(read_report(self.path)), encoding="utf-8")

    def _save_json(self, name: str, value: Any) -> None:
        with replacing(self.path / name) as path:
            path.write_text(json.dumps(encode(value), indent=2) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """What a run left in its folder; what is missing there is missing in the report.

    Raises:
        ConfigError: The folder holds no run, or a file in it is damaged.
    """
    states = {name: path / f"{name}.onnx" for name in ("fp32", "ptq", "qat")}
    last = next((name for name in reversed(states) if states[name].exists()), None)
    if last is None:
        raise ConfigError(
            f"{path} holds no run", fix="name the folder that `onnxqat run` wrote with --out"
        )
    summary = _read(path / "summary.json", Summary)
    mix = _read(path / "mix.json", Mix)
    return Report(
        title=summary.model if summary is not None else path.resolve().name,
        subject=View(f"after: {last.upper()}", load(states[last])),
        before=View("before: FP32", load(states["fp32"])) if last != "fp32" else None,
        summary=summary,
        plan=_read(path / "plan.json", QuantPlan) if mix is None else mix.plan,
        mix=mix,
        engine=_read(path / f"{last}.engine.json", EnginePlan),
        inner_errors=_read_by_name(path / "inner_errors.json"),
        distributions=_read(path / "distributions.json", tuple[Distribution, ...]),
        history=_read(path / "history.json", tuple[StepRecord, ...]) or (),
        findings=_read(path / "findings.json", tuple[Finding, ...]),
        provenance=_read(path / "provenance.json", Provenance),
    )


def _read(path: Path, kind: type[T]) -> T | None:
    """A value that `RunFolder` wrote; None where it did not."""
    found = _parsed(path)
    if found is None:
        return None
    with _naming(path):
        return decode(kind, found)


def _parsed(path: Path) -> Any:
    if not path.exists():
        return None
    with _naming(path):
        return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of which file it is that its content makes no sense."""
    try:
        yield
    except (ValueError, AttributeError, ConfigError) as error:
        raise ConfigError(f"{path} is damaged: {error}", fix="run again, or remove it") from error


def _read_by_name(path: Path) -> dict[str, Comparison]:
    """The comparisons of several models; none where there is no file."""
    found = _parsed(path)
    if found is None:
        return {}
    with _naming(path):
        return {name: decode(Comparison, comparison) for name, comparison in found.items()}


def _by_name(comparisons: dict[str, Comparison]) -> dict[str, Any]:
    return {name.lower(): encode(comparison) for name, comparison in comparisons.items()}
