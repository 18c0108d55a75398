"""The page of an audit: its findings have pictures, also of what was mended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxqat.auditing import AuditConfig, audit, fix
from onnxqat.core.finding import Finding, Severity
from onnxqat.data import open_data
from onnxqat.gather import gather
from onnxqat.graph import Graph, input_specs, load
from onnxqat.graph.insert import PLAN_KEY
from onnxqat.report.findings import Audited, Mended, as_html
from onnxqat.report.html.audited import audit_report
from onnxqat.report.html.findings import findings_by_rule
from tests.support.qdq_text import conv
from tests.support.reports import quantized
from tests.support.seeded import SEEDS, Seed, seed_id


def audited(
    graph: Graph, *, config: AuditConfig | None = None, mended: Mended | None = None
) -> Audited:
    findings = audit(graph, config=config or AuditConfig())
    return Audited("a folder/net.onnx", findings, (), graph=graph, mended=mended)


@pytest.mark.parametrize("seed", SEEDS, ids=seed_id)
def test_every_place_that_a_rule_names_is_found_for_its_picture(seed: Seed) -> None:
    graph, node = seed.plant()
    found = findings_by_rule(audit_report(audited(graph, config=seed.config)))
    cards = [card for rule in found.rules for card in rule.cards if card.finding.node == node]
    assert cards
    assert all(card.pictures for card in cards)
    boxes = [box for card in cards for box in card.pictures[0].picture.boxes]
    assert any(placed.box.is_focus for placed in boxes)


def faulty() -> onnx.ModelProto:
    """A zero point that is not zero, which can be mended."""
    return conv(zero_point="int8 z = {5}")


def test_what_was_mended_is_shown_before_and_after(tmp_path: Path) -> None:
    onnx.save(faulty(), tmp_path / "net.onnx")
    fixed = fix(tmp_path / "net.onnx")
    before = load(tmp_path / "net.onnx")
    report = audit_report(audited(fixed.graph, mended=Mended(before, fixed.repaired)))
    found = findings_by_rule(report)
    (mended,) = found.mended
    assert mended.rule == "QDQ001"
    assert [drawn.label for drawn in mended.cards[0].pictures] == ["before --fix", "after --fix"]
    assert 'id="mended"' in as_html(audited(fixed.graph, mended=Mended(before, fixed.repaired)))


def test_the_page_tells_the_hash_of_the_file_and_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(faulty(), path)
    page = as_html(Audited(str(path), (), ()))
    assert str(tmp_path) not in page
    assert "net.onnx" in page
    report = audit_report(Audited(str(path), (), ()))
    assert report.provenance is not None
    assert report.provenance.files[0].bytes == path.stat().st_size


def test_with_data_the_values_that_the_quantizers_meet_are_shown(tmp_path: Path) -> None:
    graph = load(_saved(tmp_path, conv()))
    (given,) = graph.inputs
    shape = [size if isinstance(size, int) else 8 for size in given.shape]
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.savez(tmp_path / "data.npz", **{given.name: values})
    data = open_data(str(tmp_path / "data.npz"), input_specs(graph))
    evidence = gather(graph, AuditConfig(), data=data)
    report = audit_report(Audited("net.onnx", (), (), evidence=evidence, graph=graph))
    assert report.distributions is not None
    (shown,) = [entry for entry in report.distributions if entry.tensor == given.name]
    assert (shown.minimum, shown.maximum) == pytest.approx((values.min(), values.max()))
    assert given.name in as_html(Audited("net.onnx", (), (), evidence=evidence, graph=graph))


def _saved(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def test_a_finding_on_nothing_in_the_graph_is_told_without_a_picture(tmp_path: Path) -> None:
    graph = load(_saved(tmp_path, conv()))
    finding = Finding("DEP001", Severity.NOTE, "gone", node="nobody", tensor="nothing")
    found = findings_by_rule(audit_report(Audited("net.onnx", (finding,), (), graph=graph)))
    assert found.rules[0].cards[0].pictures == ()


def test_a_file_of_ours_tells_its_reasons_and_a_damaged_one_is_audited_all_the_same() -> None:
    _, graph, plan = quantized()
    report = audit_report(audited(graph))
    assert report.plan == plan
    graph.metadata[PLAN_KEY] = "{"
    assert audit_report(audited(graph)).plan is None
