from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxqat.core.errors import DataError, ModelError
from onnxqat.data import Batch
from onnxqat.engine import compare
from onnxqat.engine.runtime import running
from tests.support.assets import MODELS, needs_assets
from tests.support.compile import model_of
from tests.support.qdq_text import conv

Array = NDArray[Any]


@dataclass
class Rows:
    """A dataset of arrays in memory that notes how it was read."""

    inputs: dict[str, Array]
    labels: Array | None = None
    batch_sizes: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def has_labels(self) -> bool:
        return self.labels is not None

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        self.batch_sizes.append(batch_size)
        count = self.size if samples is None else min(samples, self.size)
        for start in range(0, count, batch_size):
            part = slice(start, min(start + batch_size, count))
            labels = None if self.labels is None else self.labels[part]
            inputs = {name: array[part] for name, array in self.inputs.items()}
            yield Batch(inputs, labels, part.stop - part.start)


def net(body: str, *, outputs: str = "float[n, 2] y", initializers: str = "") -> onnx.ModelProto:
    """A model with input x [n, 2]."""
    constants = f"<{initializers}>" if initializers else ""
    return model_of(
        f'<ir_version: 9, opset_import: ["" : 17]> net (float[n, 2] x) => ({outputs}) {constants}'
        f"{{ {body} }}"
    )


IDENTITY = net("y = Identity (x)")
NEGATED = net("y = Neg (x)")


def rows(*values: tuple[float, float], labels: list[int] | None = None) -> Rows:
    array = np.array(values, np.float32)
    return Rows({"x": array}, None if labels is None else np.array(labels))


def test_the_error_is_the_ratio_of_energies_over_all_batches() -> None:
    doubled_last = net("two = Constant <value_floats = [1.0, 2.0]> ()  y = Mul (x, two)")
    data = rows((3.0, 1.0), (4.0, 2.0), (5.0, 3.0))
    comparison = compare(IDENTITY, doubled_last, data, batch_size=2)

    signal = 3**2 + 1 + 4**2 + 2**2 + 5**2 + 3**2  # the reference's squares
    noise = 1 + 2**2 + 3**2  # what the doubled column adds
    assert comparison.samples == 3
    assert comparison.outputs[0].tensor == "y"
    assert comparison.outputs[0].sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    assert comparison.outputs[0].max_abs == 3.0


def test_equal_models_have_an_infinite_ratio() -> None:
    comparison = compare(IDENTITY, IDENTITY, rows((1.0, 2.0)))

    assert (comparison.sqnr_db, comparison.outputs[0].max_abs) == (inf, 0.0)


def test_a_candidate_that_is_not_a_number_has_no_worse() -> None:
    broken = net("z = Sub (x, x)  y = Div (z, z)")
    comparison = compare(IDENTITY, broken, rows((1.0, 2.0)))

    assert (comparison.sqnr_db, comparison.outputs[0].max_abs) == (-inf, inf)


def test_infinities_that_both_models_have_are_no_error() -> None:
    masked = net("zero = Sub (x, x)  y = Div (x, zero)")

    assert compare(masked, masked, rows((1.0, -2.0))).sqnr_db == inf


def test_every_float_output_is_told_and_others_are_not() -> None:
    two = net(
        "y = Identity (x)  h = Abs (x)  i = ArgMax <axis = 1> (x)",
        outputs="float[n, 2] y, int64[n, 1] i, float[n, 2] h",
    )
    comparison = compare(two, two, rows((1.0, 2.0)))

    assert [error.tensor for error in comparison.outputs] == ["y", "h"]


def test_agreement_and_metric_are_shares_of_samples() -> None:
    second = net("c = Constant <value_floats = [0.0, 9.0]> ()  y = Add (x, c)")
    data = rows((1.0, 0.0), (0.0, 1.0), (2.0, 0.0), (0.0, 2.0), labels=[0, 1, 1, 1])
    comparison = compare(IDENTITY, second, data, batch_size=3)

    assert comparison.agreement == 0.5  # `second` always says class 1
    assert comparison.metric == "top1"
    assert (comparison.reference_metric, comparison.candidate_metric) == (0.75, 0.75)
    assert (comparison.lost, comparison.gained, comparison.metric_change) == (1, 1, 0.0)


def test_without_labels_there_is_agreement_and_no_metric() -> None:
    comparison = compare(IDENTITY, NEGATED, rows((1.0, 0.0)))

    assert (comparison.agreement, comparison.metric) == (0.0, None)
    assert (comparison.reference_metric, comparison.candidate_metric) == (None, None)
    assert (comparison.metric_change, comparison.metric_change_interval) == (None, None)


@pytest.mark.parametrize(
    ("output", "classes"),
    [
        ("float[n, 2] y", True),
        ("float[n, 2, 1, 1] y", True),
        ("float[n, 1] y", False),
        ("float[n, 2, 1] y", False),
        ("float[n, 1, 2, 1] y", False),
    ],
)
def test_class_scores_are_one_row_a_sample_of_two_or_more(output: str, classes: bool) -> None:
    sizes = [size.strip().replace("n", "-1") for size in output[6:-3].split(",")]
    column = "z = Slice (x, zero, one, one)" if sizes[1:] == ["1"] else "z = Identity (x)"
    model = net(
        f"{column}  y = Reshape (z, shape)",
        outputs=output,
        initializers=f"int64[{len(sizes)}] shape = {{{', '.join(sizes)}}}, "
        "int64[1] zero = {0}, int64[1] one = {1}",
    )
    agreement = compare(model, model, rows((1.0, 0.0), (2.0, 0.0))).agreement

    assert agreement == (1.0 if classes else None)


def test_a_label_that_is_no_class_is_an_error() -> None:
    with pytest.raises(DataError, match="labels reach from 0 to 7, the model has 2 classes"):
        compare(IDENTITY, IDENTITY, rows((1.0, 0.0), (0.0, 1.0), labels=[0, 7]))


def test_no_sample_is_an_error() -> None:
    with pytest.raises(DataError, match="no sample"):
        compare(IDENTITY, IDENTITY, Rows({"x": np.zeros((0, 2), np.float32)}))


def test_a_missing_output_is_an_error_that_names_it() -> None:
    other = net("z = Identity (x)", outputs="float[n, 2] z")
    with pytest.raises(ModelError, match="no output of this name") as caught:
        compare(IDENTITY, other, rows((1.0, 0.0)))

    assert caught.value.tensor == "y"


def test_an_output_of_another_shape_is_an_error() -> None:
    summed = net("y = ReduceSum <keepdims = 1> (x)", outputs="float[a, b] y")
    with pytest.raises(ModelError, match=r"shape \(1, 1\), the reference's \(1, 2\)"):
        compare(IDENTITY, summed, rows((1.0, 0.0)))


def test_a_model_that_fails_on_the_data_is_an_error_that_says_which() -> None:
    fixed = net("shape = Constant <value_ints = [3, 2]> ()  y = Reshape (x, shape)")
    with pytest.raises(ModelError, match="cannot run the candidate model"):
        compare(IDENTITY, fixed, rows((1.0, 0.0)))


def test_progress_is_told_in_samples() -> None:
    told: list[int] = []
    compare(IDENTITY, IDENTITY, rows(*[(1.0, 2.0)] * 5), batch_size=2, on_batch=told.append)

    assert told == [2, 4, 5]


def test_inner_tensors_of_both_models_are_told_apart_from_the_outputs() -> None:
    reference = net("a = Abs (x)  b = Neg (a)  y = Add (a, b)")
    candidate = net("a = Abs (x)  b = Neg (x)  c = Neg (b)  y = Add (a, c)")
    comparison = compare(reference, candidate, rows((1.0, -1.0)), layers=True)

    assert [(layer.tensor, layer.sqnr_db) for layer in comparison.layers] == [
        ("a", inf),
        ("b", pytest.approx(10 * np.log10(2 / 4))),  # [-1, -1] against [-1, 1]
    ]
    assert [error.tensor for error in comparison.outputs] == ["y"]


def test_inner_tensors_never_count_as_class_scores() -> None:
    reference = net("a = Abs (x)  y = ReduceSum <keepdims = 1> (a)", outputs="float[p, q] y")

    assert compare(reference, reference, rows((1.0, 2.0)), layers=True).agreement is None


def test_the_models_of_the_caller_keep_their_outputs() -> None:
    model = net("a = Abs (x)  y = Neg (a)")
    before = model.SerializeToString()
    compare(model, model, rows((1.0, 2.0)), layers=True)

    assert model.SerializeToString() == before


def test_inner_tensors_that_would_not_fit_in_memory_come_in_smaller_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Both models hold a and y, 8 bytes each a sample: 32 bytes.
    monkeypatch.setattr(sys.modules["onnxqat.engine.compare"], "LAYERS_MEMORY", 100)
    model = net("a = Abs (x)  y = Neg (a)")
    data = rows(*[(1.0, 2.0)] * 8)
    comparison = compare(model, model, data, layers=True, batch_size=8)

    assert data.batch_sizes == [1, 3]
    assert comparison.samples == 8


def test_paths_and_protos_compare_the_same(tmp_path: Path) -> None:
    path = tmp_path / "negated.onnx"
    onnx.save(NEGATED, path)
    data = rows((1.0, 2.0))

    assert compare(IDENTITY, path, data) == compare(IDENTITY, NEGATED, data)


def test_comparing_does_not_import_torch() -> None:
    script = (
        "import sys; from tests.engine.test_compare import IDENTITY, rows;"
        "from onnxqat.engine import compare; compare(IDENTITY, IDENTITY, rows((1.0, 2.0)));"
        "assert not {'torch', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules)"
    )
    here = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=here, check=False)

    assert done.returncode == 0


def test_qdq_is_computed_as_the_file_says_and_not_by_integer_kernels(tmp_path: Path) -> None:
    model = conv(
        product="""[conv] c = Conv <kernel_shape = [1, 1]> (xd, wd)
                   [c_Q] cq = QuantizeLinear (c, s, z)
                   [c_DQ] y = DequantizeLinear (cq, s, z)"""
    )
    x = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with running(path, "candidate") as runner:
        computed = runner({"x": x})["y"]
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})

    codes = np.rint((computed - expected) / 0.02)  # 0.02 is the scale
    assert np.abs(codes).max() <= 1, "a code may flip on a rounding boundary, by one"
    assert np.mean(codes != 0) < 1e-3


MEASURED = """
import resource, sys, time
import numpy as np
from onnxqat.data import Batch
from onnxqat.engine import compare

class Noise:
    size, has_labels = int(sys.argv[2]), False
    def batches(self, batch_size, *, samples=None, seed=None):
        rng = np.random.default_rng(0)
        for start in range(0, samples or self.size, batch_size):
            count = min(batch_size, self.size - start)
            images = rng.normal(size=(count, 3, 32, 32)).astype(np.float32)
            yield Batch({"input": images}, None, count)

started = time.perf_counter()
assert compare(sys.argv[1], sys.argv[1], Noise()).samples == Noise.size
seconds = time.perf_counter() - started
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measured(samples: int) -> tuple[float, float]:
    """Seconds and peak kB of a comparison of ResNet-20 with itself, in a process of its own."""
    command = [sys.executable, "-c", MEASURED, MODELS / "cifar10_resnet20.onnx", str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


@needs_assets
@pytest.mark.slow
def test_a_thousand_small_images_take_ten_seconds_at_most() -> None:
    seconds, _ = measured(1000)

    assert seconds < 10


@needs_assets
@pytest.mark.slow
def test_ten_times_the_samples_take_no_more_memory() -> None:
    _, few = measured(192)
    _, many = measured(1920)

    assert many < 1.1 * few


def test_only_as_many_samples_are_compared_as_were_asked_for():
    data = rows((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
    assert compare(IDENTITY, IDENTITY, data, batch_size=2, samples=2).samples == 2
