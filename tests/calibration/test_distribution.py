"""What a quantizer meets: counts, clipped share and noise, against values computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxqat.calibration import distributions
from onnxqat.calibration.distribution import BINS
from onnxqat.core.calibration import Calibration, TensorRange, amax_to_scale
from onnxqat.core.plan import Edge, Placement, QuantPlan
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import PerChannel, PerTensor, QuantDtype, QuantSpec
from onnxqat.data import open_data
from onnxqat.graph import input_specs, load
from tests.support.nets import images, write_net

AMAX = 2.0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("distribution")
    return observed(folder, tensors=("image", "stem_w", "stem_out"))


def plan() -> QuantPlan:
    def placed(tensor: str, node: str, index: int, spec: QuantSpec) -> Placement:
        return Placement(Edge(tensor, node, index), spec, "rule", "reason")

    whole = QuantSpec(QuantDtype.INT8, PerTensor())
    return QuantPlan(
        (
            placed("image", "/stem/Conv", 0, whole),
            placed("stem_out", "/inner/Conv", 0, whole),
            placed("stem_w", "/stem/Conv", 1, QuantSpec(QuantDtype.INT8, PerChannel(0))),
        )
    )


def observed(folder: Path, *, tensors: tuple[str, ...]):
    model, data = write_net(folder)
    graph = load(model)
    ranges = Calibration(
        (
            TensorRange("image", (AMAX,), "max", 1),
            TensorRange("stem_out", (50.0,), "max", 1),
            TensorRange("stem_w", (1.0,) * 8, "max", 1),
        )
    )
    return distributions(
        graph,
        plan(),
        ranges,
        open_data(str(data), input_specs(graph)),
        tensors=tensors,
        samples=24,
        batch_size=5,
    )


def test_tensors_quantized_as_a_whole_are_ranked_noisiest_first(found):
    assert {entry.tensor for entry in found} == {"image", "stem_out"}
    assert [e.sqnr_db for e in found] == sorted(e.sqnr_db for e in found)


def test_the_figures_are_those_of_the_values_themselves(found):
    values = images(64)[:24]
    (entry,) = (e for e in found if e.tensor == "image")
    assert (entry.minimum, entry.maximum) == pytest.approx((values.min(), values.max()))
    assert sum(entry.counts) == values.size
    assert len(entry.counts) == BINS
    # The bin in which the clip point lies is split: its values are taken to be evenly spread.
    assert entry.clipped == pytest.approx((np.abs(values) > AMAX).mean(), abs=1e-3)

    scale = amax_to_scale(np.array(AMAX), QuantDtype.INT8)
    noise = values - fake_quantize(values, scale, dtype=QuantDtype.INT8)
    sqnr = 10 * np.log10((values.astype(float) ** 2).sum() / (noise.astype(float) ** 2).sum())
    assert entry.sqnr_db == pytest.approx(sqnr, abs=0.1)


def test_the_counts_are_numpys_histogram_of_magnitudes(found):
    values = np.abs(images(64)[:24]).reshape(-1)
    (entry,) = (e for e in found if e.tensor == "image")
    expected, _ = np.histogram(values, bins=BINS, range=(0, entry.extent))
    # A value may fall on the other side of an edge that lies inside one of the fine bins.
    assert np.abs(np.array(entry.counts) - expected).sum() <= 4


def test_a_range_wider_than_all_values_clips_nothing_and_is_where_the_picture_ends(found):
    (entry,) = (e for e in found if e.tensor == "stem_out")
    assert entry.clipped == 0
    assert entry.extent == 50.0
    assert sum(entry.counts[BINS // 2 :]) == 0
