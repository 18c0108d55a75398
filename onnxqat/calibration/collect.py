"""Streams a model's activations out of ONNX Runtime into statistics of bounded size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from onnxqat.calibration.config import CalibrationConfig
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.calibration.runtime import Activations, TensorReader
from onnxqat.calibration.statistics import Statistics, fingerprint
from onnxqat.core.errors import DataError
from onnxqat.data import Batch, Dataset
from onnxqat.graph import Graph

Progress = Callable[[int, int | None], None]
"""Called with the number of samples done, and of all where it is known."""

_BATCH_BYTES = 3 << 20
"""Bytes of observed activations that a batch aims at. Half of it costs ResNet-20 a seventh of the
time; much more is slower too, since activations leave the cache, and takes more memory."""
_LARGEST_BATCH = 64

_DEFAULTS = CalibrationConfig()


def collect(
    graph: Graph,
    tensors: Sequence[str],
    data: Dataset,
    *,
    config: CalibrationConfig = _DEFAULTS,
    histograms: bool = True,
    on_progress: Progress | None = None,
) -> Statistics:
    """Statistics of `tensors` over the data; memory does not depend on the number of samples.

    Args:
        graph: The FP32 graph.
        tensors: Names of activations.
        data: Samples.
        config: How much data, and the threads.
        histograms: Whether magnitudes are counted, or only extremes kept, which `max` needs.
        on_progress: Called after each batch.

    Raises:
        DataError: The data does not fit the model, or makes an activation NaN or infinite.
        ModelError: ONNX Runtime cannot run the model.
    """
    begin = TensorStatistics if histograms else TensorStatistics.of_extremes
    observed = {name: begin() for name in sorted(set(tensors))}
    threads = config.threads if histograms or config.threads is not None else os.cpu_count()
    reader = TensorReader(graph, tuple(observed), threads=threads)
    size = min(_batch_size(reader, data), config.batch_size or _LARGEST_BATCH)
    total = _total(data, config)
    done = 0
    batches = data.batches(size, samples=config.samples)
    read = _run_ahead if histograms else _run  # extremes are found in no time: run on all cores
    for samples in _observe(observed, read(reader, batches)):
        done += samples
        if on_progress is not None:
            on_progress(done, total)
    return Statistics(fingerprint(graph), done, observed)


def observe(
    graph: Graph, tensors: Iterable[str], batches: Iterable[Batch], *, threads: int | None = None
) -> dict[str, TensorStatistics]:
    """Statistics of `tensors` over these batches alone; raises as `collect` does."""
    observed = {name: TensorStatistics() for name in tensors}
    reader = TensorReader(graph, tuple(observed), threads=threads)
    for _ in _observe(observed, _run_ahead(reader, batches)):
        pass
    return observed


def _observe(
    observed: Mapping[str, TensorStatistics], runs: Iterable[tuple[Batch, Activations]]
) -> Iterator[int]:
    """Add all batches to the statistics; after each one, yields its number of samples.

    Activations go as they are counted, so that no two batches of them are in memory at once.
    """
    for number, (batch, read) in enumerate(runs):
        while read:
            name, values = read.popitem()
            if not observed[name].observe(values):
                raise DataError(
                    "an activation is NaN or infinite",
                    tensor=name,
                    at=f"batch {number}",
                    fix="leave such samples out, or mend the model",
                )
        yield len(batch)


def _run(reader: TensorReader, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Activations]]:
    """Each batch with its activations."""
    for batch in batches:
        yield batch, reader(batch.inputs)


def _run_ahead(
    reader: TensorReader, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, Activations]]:
    """Each batch with its activations, the next batch being run while one is looked at."""
    with ThreadPoolExecutor(1) as pool:
        running: tuple[Batch, Future[Activations]] | None = None
        for batch in batches:
            following = (batch, pool.submit(reader, batch.inputs))
            if running is not None:
                yield running[0], running[1].result()
            running = following
        if running is not None:
            yield running[0], running[1].result()


def _batch_size(reader: TensorReader, data: Dataset) -> int:
    """As many samples as fill `_BATCH_BYTES` with activations, by a look at the first ones."""
    first = next(data.batches(1), None)
    if first is None:
        return 1
    seen = sum(values.nbytes for values in reader(first.inputs).values())
    return min(max(_BATCH_BYTES * len(first) // max(seen, 1), 1), _LARGEST_BATCH)


def _total(data: Dataset, config: CalibrationConfig) -> int | None:
    known = [size for size in (data.size, config.samples) if size is not None]
    return min(known) if data.size is not None else None
