"""Rules of the user's own: a Python function for what the built-in ones cannot know.

A rule is a function of one argument, the `Scene`, that yields decisions about edges:

    from onnxqat import Skip
    from onnxqat.placement import edge_at

    def keep_gates_in_float(scene):
        for node in scene.nodes("Mul"):  # of these ops, and not excluded
            if node.name.startswith("/se/"):
                for index in (0, 1):
                    yield Skip(edge_at(node, index), "", "the gates are sensitive")

`Placement(edge, scene.activation, "", reason)` puts Q/DQ on an edge. The rule's name is the
function's. A recipe names it with its file: `rules = ["my_rules.py:keep_gates_in_float"]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnxqat.core.errors import OnnxqatError, PlacementError
from onnxqat.core.plan import Placement, Skip
from onnxqat.core.user_code import load_callable, place_of_failure
from onnxqat.placement.rules import Rule
from onnxqat.placement.scene import Decision, Scene, edge_at


def own_rules(names: Sequence[str]) -> tuple[Rule, ...]:
    """The functions of these names, `file.py:function` or `module:function`.

    Raises:
        ConfigError: A file, module or function is not there.
    """
    return tuple(load_callable(name) for name in names)


def checked(rule: Rule, scene: Scene) -> Iterator[Decision]:
    """What a rule of the user's own decides, under the function's name.

    Raises:
        PlacementError: It fails, or yields something else than decisions about the graph's edges.
    """
    name = getattr(rule, "__name__", type(rule).__name__)
    try:
        decisions = list(rule(scene))
    except OnnxqatError:
        raise
    except Exception as error:
        raise PlacementError(
            f"the rule '{name}' failed: {type(error).__name__}: {error}",
            at=place_of_failure(error),
            fix="mend the rule, or take it out of the recipe",
        ) from error
    for decision in decisions:
        _check(decision, name, scene)
        yield replace(decision, rule=name)


def _check(decision: object, name: str, scene: Scene) -> None:
    if not isinstance(decision, Placement | Skip):
        raise PlacementError(
            f"the rule '{name}' yields {type(decision).__name__}",
            fix="yield Placement(edge, spec, rule, reason) or Skip(edge, rule, reason)",
        )
    edge = decision.edge
    node = scene.by_name.get(edge.node)
    if node is None or edge.index >= len(node.inputs) or edge_at(node, edge.index) != edge:
        raise PlacementError(
            f"the rule '{name}' decides about an edge that is not in the graph: {edge}",
            node=edge.node,
            tensor=edge.tensor,
            fix="make edges by edge_at(node, index)",
        )
