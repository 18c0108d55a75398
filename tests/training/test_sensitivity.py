"""Sensitivity is measured one quantizer at a time; ONNX Runtime finds the same in other files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxqat.bridge import to_torch
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.core.codec import decode, encode
from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.core.plan import QuantPlan
from onnxqat.core.sensitivity import Sensitivity
from onnxqat.core.spec import SharedSpec
from onnxqat.graph import Graph, as_graph, insert, prepare
from onnxqat.placement import PlacementConfig, place
from onnxqat.training.sensitivity import SensitivityConfig, sensitivity
from tests.support.nets import residual_net
from tests.support.runtime import run
from tests.support.students import Images, student_and_teacher, values_of

DATA = Images(samples=32)
CONFIG = SensitivityConfig(samples=32, batch_size=16, threads=1)


def pieces(format_name: str) -> tuple[Graph, QuantPlan, object]:
    fp32 = prepare(as_graph(residual_net()))
    plan = place(fp32, config=PlacementConfig(format=format_name))
    config = CalibrationConfig(method="max", samples=64, threads=1)
    return fp32, plan, calibrate(fp32, plan, Images(), config=config)


def sqnr_by_onnxruntime(model: Graph, reference: Graph) -> float:
    feeds = {"image": DATA.images}
    (wanted,), (got,) = run(reference, feeds), run(model, feeds)
    return 10 * float(np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()))


@pytest.mark.parametrize("format_name", ["int8", "w4a8"])
@pytest.mark.parametrize("tensor", ["image", "stem_w", "head_w", "stem_out"])
def test_one_quantizer_alone_does_what_the_file_with_it_alone_does(
    format_name: str, tensor: str
) -> None:
    fp32, plan, calibration = pieces(format_name)
    found = sensitivity(*student_and_teacher(format_name), DATA, config=CONFIG)
    [one] = [entry for entry in found.quantizers if tensor in entry.tensors]

    only = QuantPlan(tuple(x for x in plan.placements if x.edge.tensor in one.tensors))
    expected = sqnr_by_onnxruntime(insert(fp32, only, calibration), fp32)

    assert one.alone.sqnr_db == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("format_name", ["int8", "w4a8"])
def test_one_left_out_gives_what_the_file_without_it_gives(format_name: str) -> None:
    fp32, plan, calibration = pieces(format_name)
    found = sensitivity(*student_and_teacher(format_name), DATA, config=CONFIG)
    tried = [one for one in found.quantizers if one.without is not None]
    assert len(tried) >= 3

    for one in tried:
        rest = QuantPlan(tuple(x for x in plan.placements if x.edge.tensor not in one.tensors))
        expected = sqnr_by_onnxruntime(insert(fp32, rest, calibration), fp32)
        assert one.without is not None
        assert one.without.sqnr_db == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("spoilt", ["image", "stem_w", "stem_out", "inner_w", "flat", "head_w"])
def test_a_quantizer_with_a_spoilt_scale_is_the_most_sensitive(spoilt: str) -> None:
    student, teacher = student_and_teacher()
    with torch.no_grad():
        student.quantizers[spoilt].scale.mul_(300.0)  # every code is 0

    found = sensitivity(student, teacher, DATA, config=CONFIG)

    assert spoilt in found.quantizers[0].tensors
    assert found.quantizers[0].share > 0.9
    assert found.quantizers[0].without is not None
    assert found.quantizers[0].without.sqnr_db > found.every.sqnr_db + 10


def test_quantizers_that_share_a_scale_are_one() -> None:
    fp32, plan, calibration = pieces("int8")
    image, stem = (
        next(x for x in plan.placements if x.edge.tensor == tensor)
        for tensor in ("image", "stem_out")
    )
    placements = tuple(
        replace(x, spec=SharedSpec(image.edge)) if x.edge.tensor == "stem_out" else x
        for x in plan.placements
    )
    ranges = calibration.by_tensor
    same = replace(ranges["stem_out"], amax=ranges["image"].amax)
    calibration = replace(
        calibration,
        ranges=tuple(same if r.tensor == "stem_out" else r for r in calibration.ranges),
    )
    student = to_torch(insert(fp32, QuantPlan(placements), calibration))

    found = sensitivity(student, to_torch(fp32), DATA, config=CONFIG)

    [shared] = [one for one in found.quantizers if "image" in one.tensors]
    assert shared.tensors == ("image", "stem_out")
    assert set(shared.nodes) == {image.edge.node, stem.edge.node, "/sum/Add"}


def test_neither_module_is_changed() -> None:
    for_codes, teacher = student_and_teacher("w4a8")
    for_codes.quantizers["image"].enabled = False
    before = values_of(for_codes), values_of(teacher)

    sensitivity(for_codes, teacher, DATA, config=CONFIG)

    for then, now in zip(before, (values_of(for_codes), values_of(teacher)), strict=True):
        assert all(np.array_equal(then[name], now[name]) for name in then)
    off = [name for name, quantizer in for_codes.quantizers.items() if not quantizer.enabled]
    assert off == ["image"]


def test_no_labels_are_needed() -> None:
    found = sensitivity(*student_and_teacher(), Images(samples=8, labelled=False), config=CONFIG)

    assert found.every.top1 is None
    ratios = [one.alone.sqnr_db for one in found.quantizers]
    assert ratios == sorted(ratios)


def test_with_labels_the_metric_can_rank() -> None:
    student, teacher = student_and_teacher()
    with torch.no_grad():
        student.quantizers["inner_w"].scale.mul_(60.0)

    found = sensitivity(student, teacher, DATA, config=replace(CONFIG, ranked_by="metric"))

    top1 = [one.alone.top1 for one in found.quantizers]
    assert top1 == sorted(top1)


def test_a_ranking_by_metric_without_labels_is_refused() -> None:
    data = Images(samples=8, labelled=False)
    with pytest.raises(ConfigError, match="wants labels"):
        sensitivity(*student_and_teacher(), data, config=replace(CONFIG, ranked_by="metric"))


def test_a_model_without_quantizers_is_refused() -> None:
    _, teacher = student_and_teacher()
    with pytest.raises(ModelError, match="no quantizer"):
        sensitivity(teacher, teacher, DATA, config=CONFIG)


def test_what_hardly_matters_is_not_left_out_on_trial() -> None:
    student, teacher = student_and_teacher()
    with torch.no_grad():
        student.quantizers["stem_out"].scale.mul_(60.0)

    found = sensitivity(student, teacher, DATA, config=CONFIG)

    tried = {one.name: one.without is not None for one in found.quantizers}
    assert tried["stem_out"]
    assert all(tried[one.name] == (one.share >= 0.005) for one in found.quantizers)
    assert not all(tried.values())


def test_the_result_survives_json() -> None:
    found = sensitivity(*student_and_teacher(), DATA, config=CONFIG)

    assert decode(Sensitivity, json.loads(json.dumps(encode(found)))) == found
