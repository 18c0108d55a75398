"""Find the plan in mixed precision that gives up least of the quantization within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.core.errors import ConfigError
from onnxqat.core.mixed_precision import FLOAT, Mix, MixedNode, MixPoint
from onnxqat.core.spec import QuantSpec
from onnxqat.data import Dataset, kept_apart
from onnxqat.graph import Graph
from onnxqat.mixing.config import MixConfig
from onnxqat.mixing.costs import (
    Costs,
    Quantization,
    costs_in_bytes,
    costs_in_nodes,
    node_errors,
)
from onnxqat.mixing.plans import Formats, Told, choosable_nodes, place_mixed, wider_formats
from onnxqat.mixing.ranges import ranges_for
from onnxqat.mixing.trials import Judged, judging
from onnxqat.placement import PlacementConfig, place
from onnxqat.training import SensitivityConfig

OnPoint = Callable[[MixPoint], None]

MOST_RETURNS = 16
"""Nodes that are tried to be put back into the format of the others, at most."""

Errors = Mapping[tuple[str, str], float]
"""Node and format -> the noise that it makes alone, as a share of the outputs' power."""
Move = tuple[str, str]
"""A node, and the format of more bits that it gets."""

DEFAULT_PLACEMENT = PlacementConfig()
DEFAULT_CALIBRATION = CalibrationConfig()


def mix(
    graph: Graph,
    data: Dataset,
    *,
    config: MixConfig,
    placement: PlacementConfig = DEFAULT_PLACEMENT,
    calibration: CalibrationConfig = DEFAULT_CALIBRATION,
    judge: Dataset | None = None,
    on_point: OnPoint | None = None,
) -> Mix:
    """The plan that keeps the budget and gives up little of the quantization, with its ranges.

    Each node is measured alone, in every format. Then those that make most error for what they cost
    get more bits, or stay in float, until the budget is kept: each plan is placed by the rules
    anew, inserted and run on samples that neither chose ranges nor ranked nodes. Last, nodes whose
    neighbours' change made their own superfluous are put back.

    Args:
        graph: The prepared FP32 graph.
        data: Samples to calibrate and to rank by, and to judge by where none are given for that.
        config: The budget, and what is spared.
        placement: The format of all nodes to begin with, and the user's own choice.
        calibration: How ranges are chosen.
        judge: Samples that judge plans; they must not be the ones that are reported.
        on_point: Told each plan that was tried.

    Raises:
        ConfigError: There is no budget, or what judges the metric is missing.
        PlacementError: There is nothing to quantize.
        DataError: The data does not fit the model, or has no sample.
    """
    budget = config.budget
    working, held_out = kept_apart(
        data, samples=config.samples, batch_size=config.batch_size, judge=judge
    )
    names = [placement.format, *(wider.name for wider in wider_formats(placement))]
    calibrating = working if judge is None else data
    formats = [_in_format(graph, calibrating, name, placement, calibration) for name in names]
    nodes = choosable_nodes(graph, formats[0].plan)
    if not nodes:
        raise ConfigError(
            "the plan quantizes no node, so that there is nothing to choose among",
            fix="see `onnxqat place` for the reasons",
        )
    errors = _errors(graph, formats, nodes, working, config)
    costs = (
        costs_in_bytes(graph, formats, nodes, FLOAT)
        if config.cost == "bytes"
        else costs_in_nodes(formats, nodes, FLOAT)
    )
    total = sum(errors[node, names[0]] for node in nodes) or 1.0
    told = {node: Told(errors[node, names[0]] / total, budget) for node in nodes}

    def planned(chosen: Formats) -> Quantization:
        plan = place_mixed(graph, placement, chosen, told)
        ranges = ranges_for(graph, plan, formats, calibrating, calibration)
        return Quantization("mixed", plan, ranges)

    with judging(graph, held_out, config) as judged:
        levels = {node: _levels(node, formats) for node in nodes}
        search = _Search(config, errors, costs, levels, planned, judged, on_point)
        chosen = search.chosen()
    made = planned(chosen)
    return Mix(
        budget=budget,
        cost=config.cost,
        samples=judged.samples,
        nodes=len(nodes),
        plan=made.plan,
        calibration=made.calibration,
        changed=_changed(graph, chosen, told, costs),
        chosen=search.point(chosen),
        points=tuple(sorted(search.points, key=lambda point: point.quantized)),
    )


def _in_format(
    graph: Graph,
    data: Dataset,
    name: str,
    placement: PlacementConfig,
    calibration: CalibrationConfig,
) -> Quantization:
    """All nodes in one format."""
    plan = place(graph, config=replace(placement, format=name))
    return Quantization(name, plan, calibrate(graph, plan, data, config=calibration))


def _levels(node: str, formats: Sequence[Quantization]) -> tuple[str, ...]:
    """The formats in which a node differs, the coarsest first; only weights come in several."""
    found: dict[tuple[QuantSpec, ...], str] = {}
    for one in formats:
        specs = tuple(one.plan.spec_of(x.edge) for x in one.plan.placements if x.edge.node == node)
        found.setdefault(specs, one.format)
    return (*found.values(), FLOAT)


def _errors(
    graph: Graph,
    formats: Sequence[Quantization],
    nodes: Sequence[str],
    data: Dataset,
    config: MixConfig,
) -> Errors:
    measure = SensitivityConfig(
        samples=config.samples,
        batch_size=config.batch_size,
        device=config.device,
        threads=config.threads,
    )
    errors = {(node, FLOAT): 0.0 for node in nodes}
    for one in formats:
        found = node_errors(graph, one, nodes, data, measure)
        errors |= {(node, one.format): noise for node, noise in found.items()}
    return errors


def _changed(
    graph: Graph, chosen: Formats, told: Mapping[str, Told], costs: Costs
) -> tuple[MixedNode, ...]:
    ops = {node.name: node.op for node in graph.nodes}
    found = (
        MixedNode(node, ops[node], name, told[node].share, costs[node, name])
        for node, name in chosen.items()
    )
    return tuple(sorted(found, key=lambda one: (-one.share, one.node)))


@dataclass(eq=False)
class _Search:
    """The plans that were tried, and which is tried next."""

    config: MixConfig
    errors: Errors
    costs: Costs
    levels: Mapping[str, Sequence[str]]
    """Node -> its formats, the coarsest first, float last."""
    planned: Callable[[Formats], Quantization]
    judged: Judged
    on_point: OnPoint | None

    def __post_init__(self) -> None:
        """Nothing has been tried yet."""
        self._points: dict[frozenset[Move], MixPoint] = {}

    @property
    def points(self) -> Sequence[MixPoint]:
        """What was tried."""
        return tuple(self._points.values())

    def chosen(self) -> dict[str, str]:
        """The nodes that are not in the coarsest format, so that the budget is kept."""
        if self.point({}).is_within_budget:
            return {}
        moves = list(self._moves())
        chosen = dict(moves[: self._fewest(moves)])
        return self._with_returns(chosen)

    def point(self, chosen: Formats) -> MixPoint:
        """A plan, judged; once."""
        key = frozenset(chosen.items())
        if key not in self._points:
            self._points[key] = self._judge(chosen)
            if self.on_point is not None:
                self.on_point(self._points[key])
        return self._points[key]

    def _judge(self, chosen: Formats) -> MixPoint:
        found = self.judged(self.planned(chosen))
        in_float = sum(name == FLOAT for name in chosen.values())
        return MixPoint(
            quantized=1 - sum(self.costs[move] for move in chosen.items()),
            float_nodes=in_float,
            wider_nodes=len(chosen) - in_float,
            sqnr_db=found.sqnr_db,
            agreement=found.agreement,
            metric_drop=found.metric_drop,
            is_within_budget=found.keeps(self.config),
        )

    def _moves(self) -> Iterator[Move]:
        """Every node step by step up to float, what spares most error for its cost first."""
        now = self._coarsest()
        while any(name != FLOAT for name in now.values()):
            node, name = max(self._next(now), key=self._worth(now))
            yield node, name
            now[node] = name

    def _coarsest(self) -> dict[str, str]:
        return {node: levels[0] for node, levels in self.levels.items()}

    def _next(self, now: Formats) -> Iterator[Move]:
        for node, name in now.items():
            levels = self.levels[node]
            yield from ((node, wider) for wider in levels[levels.index(name) + 1 :])

    def _worth(self, now: Formats) -> Callable[[Move], tuple[float, float, str]]:
        def worth(move: Move) -> tuple[float, float, str]:
            node, _ = move
            before = (node, now[node])
            spared = self.errors[before] - self.errors[move]
            cost = self.costs[move] - self.costs[before]
            return spared / max(cost, _FREE), -self.costs[move], node

        return worth

    def _fewest(self, moves: Sequence[Move]) -> int:
        """How many of the moves keep the budget, as far as bisection tells; all of them do."""
        fails, keeps = 0, len(moves)
        probe = self._predicted(moves)
        while keeps - fails > 1:
            middle = probe if fails < probe < keeps else (fails + keeps) // 2
            probe = -1
            if self.point(dict(moves[:middle])).is_within_budget:
                keeps = middle
            else:
                fails = middle
        return keeps

    def _predicted(self, moves: Sequence[Move]) -> int:
        """After how many moves the errors of all nodes, summed, are within the budget."""
        if self.config.sqnr_db is None:
            return -1
        allowed = 10 ** (-self.config.sqnr_db / 10)
        now = self._coarsest()
        for count, (node, name) in enumerate(moves, start=1):
            now[node] = name
            if sum(self.errors[move] for move in now.items()) <= allowed:
                return count
        return -1

    def _with_returns(self, chosen: dict[str, str]) -> dict[str, str]:
        """Without the moves that are not needed once the others are made, the dearest first."""
        dearest = sorted(chosen.items(), key=lambda move: (-self.costs[move], move))
        for node, name in dearest[:MOST_RETURNS]:
            levels = self.levels[node]
            back = levels[levels.index(name) - 1]
            tried = {**chosen, node: back}
            if back == levels[0]:
                del tried[node]
            if self.point(tried).is_within_budget:
                chosen = tried
        return chosen


_FREE = 1e-9
"""Cost below which a node is as good as free, as one without any operand that is stored."""
