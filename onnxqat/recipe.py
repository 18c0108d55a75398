"""Recipes: everything that the user chose about a run, read from a TOML file.

The sections are the stages' own configs, so a default lives in one place: the stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from onnxqat.calibration.config import CalibrationConfig
from onnxqat.config_file import DataSource, read_config
from onnxqat.core.errors import ConfigError
from onnxqat.initialization.config import InitializationConfig
from onnxqat.mixing.config import MixConfig
from onnxqat.placement.config import PlacementConfig
from onnxqat.training.config import FinetuneConfig


@dataclass(frozen=True, kw_only=True)
class DataRoles:
    """Which samples serve for what. Keep `test` apart from the others: it is what is reported."""

    calibration: DataSource
    train: DataSource | None = None
    """None: the calibration samples."""
    validation: DataSource | None = None
    """Chooses the best checkpoint; None: the first samples of `train`, which are trained on too."""
    test: DataSource | None = None
    """What the table reports; None: no accuracy is reported."""

    def __post_init__(self) -> None:
        """Refuse to report on what the best step was chosen by.

        Raises:
            ConfigError: `validation` and `test` have samples in common.
        """
        if self.test is not None and _overlap(self.validation, self.test):
            raise ConfigError(
                f"[data.validation] and [data.test] share samples of '{self.test.source}'",
                fix="part them by start and samples: what chooses the best step would flatter it",
            )

    def seen_before_test(self) -> tuple[str, ...]:
        """Roles with samples that are also reported on, known by their source and range."""
        roles = {"calibration": self.calibration, "train": self.train or self.calibration}
        if self.test is None:
            return ()
        return tuple(name for name, source in roles.items() if _overlap(source, self.test))


def _overlap(one: DataSource | None, other: DataSource) -> bool:
    """Whether both name the same source, and ranges of it that meet."""
    if one is None or one.source != other.source:
        return False
    first, last = sorted((one, other), key=lambda source: source.start)
    return first.samples is None or first.start + first.samples > last.start


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Whether and for what the models are compiled."""

    backend: str = "auto"
    """`auto`, `rtx`, `tensorrt`, or `none` to leave it out."""
    compute_capability: tuple[int, int] = (8, 9)
    """What rtx compiles for: the GPU generation."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Input name -> shape, for inputs of which more than the batch is dynamic."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the fine-tuned model has to reach on the test data; `onnxqat run` ends with 1 if not."""

    metric_drop: float | None = None
    """How much of the task metric (0 to 1) may be lost against the FP32 model, at most."""
    agreement: float | None = None
    """Share (0 to 1) of samples with the FP32 model's top-1 class, at least."""
    sqnr_db: float | None = None
    """Signal-to-quantization-noise ratio of the worst output in dB, at least."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run."""

    model: Path
    """The FP32 ONNX file."""
    data: DataRoles
    batch_size: int = 32
    """Samples at a time in calibration and comparison."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    mixed_precision: MixConfig = field(default_factory=MixConfig)
    """With a limit in it: what of the network stays in float, or gets more bits, so that the model
    keeps it after calibration alone."""
    initialization: InitializationConfig = field(default_factory=InitializationConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    control: bool = False
    """Train the FP32 model alike, to see what more training alone does. Only a loss with labels, or
    one of your own, can gain by it; it takes as long as the training itself."""
    build: BuildConfig = field(default_factory=BuildConfig)
    budget: Budget = field(default_factory=Budget)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file; its relative paths are taken from the file's own folder.

    Raises:
        ConfigError: The file is missing, is not TOML, or has an unknown, missing or wrong key.
    """
    recipe = read_config(Recipe, path)
    home = path.resolve().parent
    roles = {
        role.name: source.at_home(home)
        for role in fields(recipe.data)
        if (source := getattr(recipe.data, role.name)) is not None
    }
    return replace(
        recipe,
        model=home / recipe.model,
        data=replace(recipe.data, **roles),
        placement=replace(
            recipe.placement, rules=tuple(_at_home(name, home) for name in recipe.placement.rules)
        ),
    )


def _at_home(name: str, home: Path) -> str:
    """A callable's file is meant from the recipe's folder; a module stays as it is."""
    source, _, function = name.rpartition(":")
    return f"{home / source}:{function}" if source.endswith(".py") else name
