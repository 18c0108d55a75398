"""Runs two models on the same data and says how far apart they are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from onnxqat.core.comparison import Comparison
from onnxqat.data import Dataset
from onnxqat.engine.inner_tensors import shared_inner_tensors, with_outputs
from onnxqat.engine.model_file import Model, model_file
from onnxqat.engine.runtime import Runner, running
from onnxqat.engine.tally import Tally

LAYERS_MEMORY = 2**28
"""Bytes of inner tensors that a comparison by layers holds at a time, if one sample allows it."""


def compare(
    reference: Model,
    candidate: Model,
    data: Dataset,
    *,
    layers: bool = False,
    batch_size: int = 64,
    samples: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Comparison:
    """How far the candidate is from the reference on the same data.

    Both run under ONNX Runtime without graph optimizations, batch after batch: memory does not grow
    with the data. Agreement and metric are told for the first output of class scores (see
    `is_class_scores`); the metric is top-1, where the data has labels.

    Args:
        reference: The model that is right by definition: a path, ModelProto or graph.
        candidate: The model that is judged; it has the reference's inputs and outputs.
        data: Batches of inputs, labels optional.
        layers: Also compare the inner float tensors whose names both models have.
        batch_size: Samples a batch; fewer where the inner tensors would not fit in memory.
        samples: How many samples, from the first; None for all.
        on_batch: Is told the number of samples compared so far.

    Raises:
        ModelError: A model does not run, or the candidate lacks an output of the reference.
        DataError: There is no sample.
    """
    with _both_running(reference, candidate, layers=layers) as (runners, inner):
        if inner:
            batch_size = min(batch_size, _affordable_batch(runners, data))
        tally = Tally(frozenset(inner))
        for batch in data.batches(batch_size, samples=samples):
            wanted, got = (runner(batch.inputs) for runner in runners)
            tally.add(wanted, got, samples=len(batch), labels=batch.labels)
            if on_batch is not None:
                on_batch(tally.samples)
        return tally.result()


@contextmanager
def _both_running(
    reference: Model, candidate: Model, *, layers: bool
) -> Iterator[tuple[list[Runner], tuple[str, ...]]]:
    """Both models ready to run, and the names of the inner tensors among their outputs."""
    with tempfile.TemporaryDirectory(prefix="onnxqat-compare-") as scratch, ExitStack() as stack:
        models = {"reference": reference, "candidate": candidate}
        files = {name: model_file(model, Path(scratch, name)) for name, model in models.items()}
        inner = shared_inner_tensors(*(file.graph for file in files.values())) if layers else ()
        runners = [
            stack.enter_context(
                running(with_outputs(file, inner, Path(scratch, f"inner {name}")), name)
            )
            for name, file in files.items()
        ]
        yield runners, inner


def _affordable_batch(runners: Sequence[Runner], data: Dataset) -> int:
    """How many samples' outputs fit into `LAYERS_MEMORY`, at least 1."""
    for batch in data.batches(1, samples=1):
        arrays = [array for runner in runners for array in runner(batch.inputs).values()]
        return max(1, LAYERS_MEMORY * len(batch) // sum(array.nbytes for array in arrays))
    return 1
