"""What the user chooses about fine-tuning, in plain types, with measured defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxqat.core.errors import ConfigError

Augmentation = Literal["flip", "shift"]

DEFAULT_STEPS = 200
"""Steps where neither `steps` nor `epochs` is given."""


@dataclass(frozen=True)
class FinetuneConfig:
    """How to fine-tune. The defaults need no tuning; `optimizer.RECOMMENDED` holds the rates."""

    steps: int | None = None
    """Optimizer steps; None: as many as `epochs` make, or 200 without either."""
    epochs: float | None = None
    """Passes over the training data, instead of `steps`."""
    batch_size: int = 32
    """Samples a step. A model with a fixed, smaller batch accumulates gradients up to it."""
    micro_batch: int | None = None
    """Samples a forward pass, to save memory; None: the whole batch."""
    augment: tuple[Augmentation, ...] = ()
    """What is done to images at random before a step, where there are few: `flip`, left to right
    (not of text or digits), `shift`, by up to an eighth of the sides. Labels stay as they are."""

    loss: str = "auto"
    """Terms joined by `+`, each with an optional factor, as `auto+0.1*labels`: `auto`, `mse` and
    `kl` distil the FP32 outputs (`auto` is `mse` before a Sigmoid or Softmax, and of each part of
    an output by itself, see `heads`), `features` inner tensors, `labels` is cross-entropy,
    `module:callable` or `file.py:callable` is yours (see `losses`)."""
    features: tuple[str, ...] = ()
    """Inner tensors for the term `features`, and for a loss of yours beside the outputs: names, or
    regular expressions for whole names. Empty: the outputs of residual blocks and their like."""
    temperature: float = 1.0
    """Softens both sides of `kl`."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = None
    """Share of its own size that a weight moves in a step, see `parameters`; None: recommended."""
    bias_lr: float | None = None
    """The same for biases and norms; None: in the recommended ratio to `lr`."""
    scale_lr: float | None = None
    """The same for learned scales; None: in the recommended ratio to `lr`."""
    weight_decay: float = 0.0
    """Decoupled decay of weights (never of biases, norms or scales), times `lr`."""
    momentum: float = 0.9
    """Of `sgd`."""
    warmup: float = 0.05
    """Share of the steps in which the rate rises linearly; then it falls as `schedule` says."""
    schedule: Literal["cosine", "step"] = "cosine"
    """How the rate falls: along a half cosine, or to a tenth every `drop_epochs`."""
    drop_epochs: float = 10.0
    """Passes over the training data between two drops of the `step` schedule."""
    scales_first: float = 0.0
    """Share of the steps, from the first, in which only the scales train."""
    average: float | None = None
    """Share (below 1) that the running average of the parameters keeps in each step; it is what is
    validated and handed out. 0: the parameters themselves are; None: so too, but for a model that
    an initialization stage has trained, where 0.97 makes little steps of the noisy ones."""
    damping: float = 0.0
    """Share of the way to its code's value that a weight is drawn in each step, rising to this over
    the run: it brings weights to rest that swing between two codes. 0.02 is a start; 0: none."""
    freezing: float | None = None
    """Swings a step, averaged over some 50, from which a weight stays for good at the code where it
    mostly was. 0.03, two swings soon after each other, is a start; None: weights are not frozen."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What layers compute in while training; fake quantization stays in float32."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """How images lie in memory while training; auto: channels last on a CPU, where a step of
    ResNet-20 takes 5 % and one of MobileNet v1 17 % less time so."""
    save_memory: bool | None = None
    """Compute again in the backward pass, to the bit, what fake quantizers give, instead of keeping
    it: a step takes about half the memory, and some 3 % more time. None: unless `compile`, which
    does not allow it."""
    compile: bool = False
    """Run the student through torch.compile, in one piece or not at all. Of no use on a CPU, where
    a step of ResNet-20 takes a fifth longer so and the first one a minute; for GPUs to be tried."""
    clip_grad: float | None = 1.0
    """Largest norm of all gradients together; None: no clipping."""

    scales: Literal["auto", "frozen", "learned"] = "auto"
    """Activation scales; auto: learned, but frozen for FP8, whose numbers lie as close to each
    other, for their size, whatever the scale: learned scales only move all roundings about (0.4 dB
    lost on a small network, 0.1 dB on ResNet-20)."""
    weight_scales: Literal["auto", "recomputed", "learned", "frozen"] = "auto"
    """Weight scales; auto: recomputed (amax / qmax) where they start so, but for FP8; else as
    `scales`."""

    train: Literal["all", "sensitive"] = "all"
    """`sensitive`: only the layers whose quantizers make most of the error, see `sensitivity`;
    weights, biases and scales of all others are frozen, which saves their part of the time and of
    the memory."""
    train_share: float = 0.5
    """The share of all weights that `sensitive` trains, at most."""
    train_only: tuple[str, ...] = ()
    """Regular expressions of the names of nodes, weights or quantized tensors: nothing but these
    trains. A pattern must match the whole name."""
    freeze: tuple[str, ...] = ()
    """The same: these do not train, whatever the above says."""

    validate_every: int | None = None
    """Steps between validations; None: about ten in all."""
    validation_samples: int = 512
    """At most so many samples a validation."""

    patience: int | None = None
    """Stop after so many validations in a row without a new best; None: take all steps."""

    checkpoint_minutes: float | None = 10.0
    """Minutes between checkpoints, which `--resume` goes on from; None: not by time."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, besides; None: not by steps."""
    tensorboard: bool = False
    """Write the history for TensorBoard too (see its package), where there is a run folder."""

    fallback: Literal["onnxruntime"] | None = None
    """Who computes the operators that have no torch function; no gradient passes them. None: they
    are an error."""

    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    """Of torch on the CPU; None: torch's choice, every core. Its threads wait for each other at
    full load, so on a machine that is shared fewer are faster."""
    workers: int = 1
    """Batches prepared ahead of the step, in a thread; 0: none, all in one thread."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        for name in ("batch_size", "validation_samples"):
            _require(self, name, low=1)
        for name in ("steps", "micro_batch", "validate_every", "threads", "patience"):
            _require(self, name, low=1)
        for name in ("lr", "bias_lr", "scale_lr", "weight_decay", "momentum", "workers"):
            _require(self, name, low=0)
        _require(self, "checkpoint_steps", low=1)
        for name in ("epochs", "checkpoint_minutes", "drop_epochs", "temperature", "clip_grad"):
            _require(self, name, above=0)
        for name in ("warmup", "scales_first", "damping"):
            _require(self, name, low=0, high=1)
        _require(self, "train_share", above=0, high=1)
        _require(self, "average", low=0, high=0.99999)
        _require(self, "freezing", above=0)
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("both steps and epochs are given", fix="give one of them")
        if self.compile and self.save_memory is True:
            raise ConfigError(
                "compile and save_memory exclude each other",
                fix="give one of them: torch.compile decides itself what is kept",
            )


def _require(
    config: FinetuneConfig,
    name: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
) -> None:
    """Check one number's limits; None is always allowed.

    Raises:
        ConfigError: The number is outside.
    """
    value = getattr(config, name)
    if value is None:
        return
    too_small = (low is not None and not value >= low) or (above is not None and not value > above)
    if too_small or (high is not None and value > high):
        wanted = [f">= {low}" if low is not None else "", f"> {above}" if above is not None else ""]
        wanted += [f"<= {high}" if high is not None else ""]
        raise ConfigError(
            f"{name} = {value} is out of range", fix=f"give {' and '.join(filter(None, wanted))}"
        )
