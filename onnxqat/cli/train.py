"""The commands that make a model better to run in few bits: equalize, initialize, finetune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.flags import (
    BatchSize,
    Data,
    Device,
    Json,
    Output,
    PrintEvery,
    Resume,
    Seed,
    Teacher,
    Threads,
    Workers,
)
from onnxqat.core.files import check_writable

if TYPE_CHECKING:
    from onnxqat.data import Dataset
    from onnxqat.graph import Change, Graph

Validation = Annotated[
    str | None,
    Parameter(
        name="--validation",
        help="Samples that choose the best checkpoint, as --data; else the first of --data.",
    ),
]

Fallback = Annotated[
    Literal["onnxruntime"] | None,
    Parameter(
        name="--fallback",
        help="Let ONNX Runtime compute, on the CPU, the operators that torch has no function for "
        "(see onnxqat ops); no gradient passes them. Else they are an error.",
    ),
]


def equalize(
    model: Path,
    /,
    *,
    data: Data,
    output: Output,
    stages: Annotated[
        str, Parameter(name="--stages", help="align, equalize, smooth, separated by commas.")
    ] = "align,equalize,smooth",
    format: Annotated[
        Literal["int8", "w4a8", "fp8", "w4a4"],
        Parameter(name="--format", help="What the model will be quantized to."),
    ] = "int8",
    samples: Annotated[
        int,
        Parameter(
            name="--samples", help="How many samples show ranges and gradients, from the first."
        ),
    ] = 1024,
    threads: Threads = None,
    json: Json = False,
) -> int:
    """Write an FP32 model that computes the same, and loses less when it is quantized.

    align makes whole numbers of pixels that were normalized, by a multiplication and an addition
    that the first layer undoes: INT8 then holds them without loss. The others move factors from the
    channels of an activation, which share one scale, into the weights behind: equalize from layer
    to layer, through residual sums too, smooth from a normalization to the layers behind it. They
    are chosen so that rounding does the least to the outputs. A limit as of ReLU6 stays: what
    reaches farther than in the samples may be cut by it, so give several hundred.
    What cannot be moved, and why, is told by --json.

    Args:
        model: The FP32 ONNX file.
    """
    from onnxqat.graph import load, prepare, save
    from onnxqat.initialization import equalize as equalize_stage
    from onnxqat.initialization.config import FLOAT_STAGES
    from onnxqat.placement import PlacementConfig, place
    from onnxqat.report.console import changes_table

    check_writable(output, inputs=[model])
    made: list[Change] = []
    prepared = prepare(load(model), on_change=made.append)
    equalized = equalize_stage(
        prepared,
        place(prepared, config=PlacementConfig(format=format)),
        _opened(data, prepared),
        stages=_names(stages),
        samples=samples,
        threads=threads,
        on_change=made.append,
    )
    save(equalized, output)
    rescaled = [change for change in made if change.kind in FLOAT_STAGES]
    show.result(tuple(made), as_json=json, table=changes_table(rescaled))
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def initialize(
    qdq: Path,
    /,
    *,
    teacher: Teacher,
    data: Data,
    output: Output,
    stages: Annotated[
        str,
        Parameter(name="--stages", help="Names, in order, separated by commas; see below."),
    ],
    validation: Annotated[
        str | None,
        Parameter(
            name="--validation",
            help="Samples that judge the stages, as --data; else a quarter of --samples.",
        ),
    ] = None,
    samples: Annotated[
        int, Parameter(name="--samples", help="How many samples to learn from, drawn by the seed.")
    ] = 1024,
    iterations: Annotated[
        int, Parameter(name="--iterations", help="Steps for each layer or block that is trained.")
    ] = 300,
    batch_size: BatchSize = 32,
    fallback: Fallback = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> int:
    """Bring a Q/DQ model nearer to its FP32 teacher, without labels and without training.

    Stages: batch_norm moves the statistics of BatchNormalizations that cannot be folded by what
    quantization moves them; sequential_mse chooses the scales of weights by what each layer makes
    of quantized inputs; bias_correction takes the mean error of each layer's output out of its
    bias; adaround learns layer after layer, and brecq block after block, which weights to round up;
    reconstruct fine-tunes block after block. The last three gain the most, above all with 4-bit
    weights, in --iterations short steps for each layer or block.

    Each stage is judged by the worst output's error on samples that no stage learns from, and
    undone where it made that worse. Values change in the file's own graph, and nothing else.

    Args:
        qdq: The Q/DQ ONNX file, of `onnxqat quantize` or of another tool.
    """
    from onnxqat.bridge import to_torch, write_back
    from onnxqat.graph import load, prepare, save
    from onnxqat.initialization import InitializationConfig
    from onnxqat.initialization import initialize as initialize_stage
    from onnxqat.report.console import stages_table

    check_writable(output, inputs=[qdq, teacher])
    config = InitializationConfig(
        stages=_names(stages),
        samples=samples,
        iterations=iterations,
        batch_size=batch_size,
        seed=seed,
        device=device,
        threads=threads,
    )
    student = _load_qdq(qdq)
    module = to_torch(student, fallback=fallback)
    for finding in module.findings:
        show.finding(finding)
    gains = initialize_stage(
        module,
        to_torch(prepare(load(teacher)), fallback=fallback),
        _opened(data, student),
        config=config,
        validation=_opened(validation, student) if validation is not None else None,
        on_stage=show.stage_gain,
    )
    save(write_back(module), output)
    show.result(gains, as_json=json, table=stages_table(gains))
    return 0


def finetune(
    qdq: Path,
    /,
    *,
    teacher: Teacher,
    data: Data,
    output: Output,
    validation: Validation = None,
    steps: Annotated[int | None, Parameter(name="--steps", help="Optimizer steps.")] = None,
    epochs: Annotated[
        float | None, Parameter(name="--epochs", help="Passes over the data, instead of --steps.")
    ] = None,
    lr: Annotated[
        float | None,
        Parameter(name="--lr", help="Relative learning rate; recommended by format if not given."),
    ] = None,
    scales: Annotated[
        Literal["auto", "frozen", "learned"],
        Parameter(name="--scales", help="Whether activation scales are trained; auto: but of FP8."),
    ] = "auto",
    loss: Annotated[
        str,
        Parameter(
            name="--loss",
            help="Terms joined by '+', each with an optional factor: auto, mse and kl distil "
            "the FP32 outputs, features inner tensors, labels is cross-entropy, MODULE:CALLABLE is "
            "yours. Example: auto+0.1*labels.",
        ),
    ] = "auto",
    batch_size: BatchSize = 32,
    augment: Annotated[
        tuple[Literal["flip", "shift"], ...],
        Parameter(
            name="--augment",
            negative="",
            help="Change images at random before each step, where there are few: flip them left to "
            "right, shift them by up to an eighth of their sides (repeatable).",
        ),
    ] = (),
    schedule: Annotated[
        Literal["cosine", "step"],
        Parameter(
            name="--schedule", help="How the rate falls: a half cosine, or to a tenth in steps."
        ),
    ] = "cosine",
    average: Annotated[
        float | None,
        Parameter(
            name="--average",
            help="Hand out a running average of the parameters that keeps this share of itself in "
            "each step, as 0.99; 0: the parameters themselves. Left out: 0.97 for a model that an "
            "initialization stage has trained.",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"],
        Parameter(
            name="--precision",
            help="What layers compute in while training; fake quantization stays in float32.",
        ),
    ] = "float32",
    train: Annotated[
        Literal["all", "sensitive"],
        Parameter(
            name="--train",
            help="sensitive: only the layers whose quantizers make most of the error; the others "
            "are frozen, which saves time and memory.",
        ),
    ] = "all",
    train_share: Annotated[
        float, Parameter(name="--train-share", help="Share of all weights that sensitive trains.")
    ] = 0.5,
    train_only: Annotated[
        tuple[str, ...],
        Parameter(
            name="--train-only",
            negative="",
            help="Train only nodes, weights and scales whose name matches (regex, repeatable).",
        ),
    ] = (),
    freeze: Annotated[
        tuple[str, ...],
        Parameter(
            name="--freeze",
            negative="",
            help="Do not train nodes, weights and scales whose name matches (regex, repeatable).",
        ),
    ] = (),
    patience: Annotated[
        int | None,
        Parameter(name="--patience", help="Stop after so many validations without a gain."),
    ] = None,
    checkpoint_minutes: Annotated[
        float,
        Parameter(
            name="--checkpoint-minutes",
            help="Minutes between checkpoints, kept beside the output until it is written.",
        ),
    ] = 10.0,
    resume: Resume = False,
    fallback: Fallback = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = 1,
    print_every: PrintEvery = 0,
    json: Json = False,
) -> int:
    """Fine-tune a Q/DQ model against its FP32 teacher; labels are optional.

    Writes weights and scales back into the Q/DQ file's own graph: nothing else of it changes. The
    Q/DQ file may come from `onnxqat quantize` or from another tool. Several processes train
    together when torchrun starts them: torchrun --nproc-per-node 4 -m onnxqat finetune …

    Args:
        qdq: The Q/DQ ONNX file.
    """
    from onnxqat.auditing import audit
    from onnxqat.bridge import to_torch, write_back
    from onnxqat.cli.progress import TrainingProgress
    from onnxqat.graph import load, prepare, save
    from onnxqat.training import FinetuneConfig, interruption
    from onnxqat.training import finetune as finetune_stage
    from onnxqat.training.distributed import joined

    check_writable(output, inputs=[qdq, teacher])
    checkpoint = _checkpoint_of(output, resume=resume)
    config = FinetuneConfig(
        steps=steps,
        epochs=epochs,
        lr=lr,
        scales=scales,
        loss=loss,
        batch_size=batch_size,
        schedule=schedule,
        average=average,
        precision=precision,
        train=train,
        train_share=train_share,
        train_only=train_only,
        freeze=freeze,
        augment=augment,
        patience=patience,
        checkpoint_minutes=checkpoint_minutes,
        fallback=fallback,
        seed=seed,
        device=device,
        threads=threads,
        workers=workers,
    )
    student = _load_qdq(qdq)
    dataset = _opened(data, student)
    held_out = _opened(validation, student) if validation is not None else None
    module = to_torch(student, fallback=fallback)
    for finding in (*audit(student), *module.findings):
        show.finding(finding)
    with TrainingProgress(print_every=print_every) as progress, joined() as processes:
        tuned = finetune_stage(
            module,
            to_torch(prepare(load(teacher)), fallback=fallback),
            dataset,
            config=config,
            validation=held_out,
            on_progress=progress.show,
            checkpoint=checkpoint,
            resume=resume,
        )
    if not processes.is_first:
        return 0
    save(write_back(tuned.module), output)
    if tuned.stopped == "interrupted":
        raise interruption(tuned, model=output, checkpoint=checkpoint)
    checkpoint.unlink(missing_ok=True)
    if tuned.origin is not None:
        show.log(f"step {tuned.history[-1].step} met a number that is not finite: {tuned.origin}")
    show.result(tuned.history, as_json=json, table=f"{output}: best at step {tuned.best_step}")
    return 0


def _load_qdq(path: Path) -> Graph:
    from onnxqat.core.errors import ModelError
    from onnxqat.graph import load, qdq_pairs

    graph = load(path)
    if not qdq_pairs(graph):
        raise ModelError(
            "the model has no Q/DQ pair, so there is nothing to fine-tune for",
            at=f"file '{path}'",
            fix="quantize it first: onnxqat quantize",
        )
    return graph


def _checkpoint_of(output: Path, *, resume: bool) -> Path:
    """Where the run is kept while it goes on; that of an unfinished one is not overwritten."""
    from onnxqat.core.errors import ConfigError

    path = output.with_name(f"{output.name}.checkpoint")
    if path.exists() and not resume:
        raise ConfigError(
            f"there is the checkpoint of an unfinished run, {path}",
            fix="go on with it by --resume, or remove it",
        )
    if resume and not path.exists():
        show.log(f"there is no checkpoint {path} to go on from: the run begins at its start")
    return path


def _opened(data: str, graph: Graph) -> Dataset:
    from onnxqat.config_file import read_source
    from onnxqat.data import open_data
    from onnxqat.graph import input_specs

    source = read_source(data)
    return open_data(source.source, input_specs(graph), source)


COMMANDS = (equalize, initialize, finetune)
