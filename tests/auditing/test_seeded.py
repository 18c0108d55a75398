"""Faults put into good networks on purpose: found at their node, repaired, and clean again."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.auditing import AuditConfig, audit, fix
from onnxqat.core.errors import BuildError
from onnxqat.core.finding import Finding, Severity
from onnxqat.engine import build
from onnxqat.graph import Graph
from tests.support.compile import needs_compiler
from tests.support.runtime import run
from tests.support.seeded import ARCHITECTURES, SEEDS, SOURCES, Seed, good, random_input, seed_id

BEYOND_REPAIR = {"QDQ005", "QDQ011", "QDQ018", "QDQ019", "QDQ118"}
BEYOND_REPAIR |= {"CAL002", "CAL003", "DEP004", "DEP006"}
"""What only calibration data, another exporter or a decision of the user mends."""


def objections(findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.NOTE]


def test_there_are_forty_faults_in_five_models_and_more() -> None:
    assert len(SEEDS) >= 40
    assert len({seed.model for seed in SEEDS}) >= 5


@pytest.mark.parametrize("profile", ["tensorrt", "rtx"])
@pytest.mark.parametrize("model", [*SOURCES, *ARCHITECTURES])
def test_a_good_model_has_no_error_and_no_warning(model: str, profile: str) -> None:
    findings = audit(good(model, profile), config=AuditConfig(profile=profile))

    assert objections(findings) == []


@pytest.mark.parametrize("seed", SEEDS, ids=seed_id)
def test_a_fault_is_found_at_its_node(seed: Seed) -> None:
    graph, node = seed.plant()

    assert (seed.rule, node) in {(x.rule, x.node) for x in audit(graph, config=seed.config)}


@pytest.mark.parametrize("seed", SEEDS, ids=seed_id)
def test_a_repaired_model_is_clean(seed: Seed) -> None:
    graph, node = seed.plant()
    found = [x for x in audit(graph, config=seed.config) if (x.rule, x.node) == (seed.rule, node)]
    if not found[0].is_fixable:
        pytest.skip("no repair is safe here")

    fixed = fix(graph, config=seed.config)

    assert fixed.repaired
    assert seed.rule not in {finding.rule for finding in fixed.left}
    assert objections(fixed.left) == []


@pytest.mark.parametrize("seed", SEEDS, ids=seed_id)
def test_a_repaired_model_computes_what_the_spoiled_or_the_good_one_does(seed: Seed) -> None:
    graph, _ = seed.plant()
    fixed = fix(graph, config=seed.config)
    if not fixed.repaired:
        pytest.skip("nothing was repaired")
    whole = good(seed.model, seed.config.profile)
    draw = np.random.default_rng(5)
    feeds = {tensor.name: random_input(tensor, draw) for tensor in whole.inputs}
    repaired = run(fixed.graph, feeds)[0]

    spoiled = _outputs(graph, feeds)
    assert max(_sqnr(x, repaired) for x in (run(whole, feeds)[0], *spoiled)) > 15


def _outputs(graph: Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return [run(graph, feeds)[0]]
    except Exception:  # noqa: BLE001 # ONNX Runtime's errors share no class of their own
        return []


def _sqnr(wanted: np.ndarray, got: np.ndarray) -> float:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return -np.inf
    noise = ((wanted - got).astype(np.float64) ** 2).sum()
    return float(10 * np.log10((wanted.astype(np.float64) ** 2).sum() / max(noise, 1e-30)))


def test_only_these_rules_have_no_repair() -> None:
    repaired: dict[str, bool] = {}
    for seed in SEEDS:
        graph, node = seed.plant()
        for x in audit(graph, config=seed.config):
            if (x.rule, x.node) == (seed.rule, node):
                repaired[x.rule] = repaired.get(x.rule, False) or x.is_fixable

    assert {rule for rule, is_fixable in repaired.items() if not is_fixable} == BEYOND_REPAIR


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS, ids=seed_id)
def test_a_repaired_model_compiles(seed: Seed) -> None:
    graph, node = seed.plant()
    found = [x for x in audit(graph, config=seed.config) if (x.rule, x.node) == (seed.rule, node)]
    if found[0].is_fixable:
        build(fix(graph, config=seed.config).graph, backend="rtx")
    elif found[0].severity is Severity.ERROR:
        with pytest.raises(BuildError):
            build(graph, backend="rtx")


COSTLY = {"QDQ104", "QDQ105", "QDQ106", "QDQ110", "QDQ118", "QDQ119"}
"""Rules whose pages say that the compiled engine moves more bytes."""


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("seed", [x for x in SEEDS if x.rule in COSTLY], ids=seed_id)
def test_the_compiler_moves_more_bytes_for_a_fault_that_is_said_to_cost_them(seed: Seed) -> None:
    graph, _ = seed.plant()
    right = build(good(seed.model, seed.config.profile), backend="rtx").plan

    assert build(graph, backend="rtx").plan.activation_bytes > 1.01 * right.activation_bytes
