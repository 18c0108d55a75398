"""Pictures: the right nodes, data flowing down, nothing on top of anything else."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from onnxqat.report.html.neighbourhood import MOST_NODES, Box, Link, Map, Neighbourhood
from onnxqat.report.html.picture import LONGEST, Picture, PlacedBox, picture, shortened
from tests.support.reports import quantized


@pytest.fixture(scope="module")
def maps() -> tuple[Map, Map]:
    fp32, qdq, _ = quantized()
    return Map(fp32), Map(qdq)


def titles(found: Neighbourhood) -> list[str]:
    return [box.title for box in found.boxes]


def test_the_node_itself_is_marked_and_its_neighbours_are_there(maps):
    found = maps[0].around(node="/inner/Conv", tensor=None)
    assert [box.detail for box in found.boxes if box.is_focus] == ["/inner/Conv"]
    assert {"Relu", "Conv", "Add", "weights 8×8×3×3"} <= set(titles(found))


def test_quantizers_show_their_scales(maps):
    found = maps[1].around(node="/inner/Conv", tensor=None)
    assert "Q  scale 0.00787" in titles(found)
    assert "DQ  8 scales" in titles(found)


def test_a_finding_on_a_tensor_is_shown_around_its_producer(maps):
    found = maps[0].around(node=None, tensor="sum")
    assert [box.detail for box in found.boxes if box.is_focus] == ["/sum/Add"]


def test_a_finding_on_an_input_or_weight_is_shown_around_its_reader(maps):
    found = maps[0].around(node=None, tensor="inner_w")
    assert [box.detail for box in found.boxes if box.is_focus] == ["/inner/Conv"]


def test_there_is_no_picture_of_what_is_not_in_the_graph(maps):
    assert maps[0].around(node="nobody", tensor=None) is None
    assert maps[0].around(node=None, tensor=None) is None
    elsewhere = Neighbourhood((), (), 0, frozenset({"nobody"}))
    assert maps[0].same_place(elsewhere) is None


def test_the_same_place_in_another_state_of_the_graph_has_the_nodes_of_the_same_names(maps):
    after = maps[1].around(node="/inner/Conv", tensor=None)
    before = maps[0].same_place(after)
    assert before.nodes == {name for name in after.nodes if "Linear" not in name}
    assert [box.detail for box in before.boxes if box.is_focus] == ["/inner/Conv"]


def test_the_q_and_dq_nodes_that_are_only_in_the_other_state_are_shown_there(maps):
    before = maps[0].around(node="/inner/Conv", tensor=None)
    after = maps[1].same_place(before)
    assert after.nodes > before.nodes
    assert all("Linear" in name for name in after.nodes - before.nodes)


def test_a_picture_stays_small_and_says_what_it_leaves_out(maps):
    found = maps[1].around(node="/inner/Conv", tensor=None)
    assert len(found.nodes) == MOST_NODES
    assert found.hidden > 0


def test_what_lies_between_the_nodes_of_the_other_state_goes_before_dead_ends(maps):
    before = maps[0].around(node="/sum/Add", tensor=None)
    after = maps[1].same_place(before)
    linked = {key for link in after.links for key in (link.source, link.target)}
    assert {box.key for box in after.boxes} == linked, "no box stands alone"


def drawn(count: int, *, seed: int) -> Picture:
    """A random graph without cycles."""
    rng = random.Random(seed)
    boxes = tuple(Box(str(i), "operator", "Op", "n" * rng.randint(1, 40)) for i in range(count))
    links = tuple(
        Link(str(rng.randrange(target)), str(target), "t")
        for target in range(1, count)
        for _ in range(rng.randint(1, 3))
    )
    return picture(Neighbourhood(boxes, links, 0, frozenset()))


def overlap(first: PlacedBox, second: PlacedBox) -> bool:
    return (
        abs(first.x - second.x) < (first.width + second.width) / 2
        and abs(first.y - second.y) < (first.height + second.height) / 2
    )


@pytest.mark.parametrize("seed", range(20))
def test_boxes_lie_inside_the_picture_and_never_on_each_other(seed):
    shown = drawn(14, seed=seed)
    for placed in shown.boxes:
        assert placed.width / 2 <= placed.x <= shown.width - placed.width / 2
        assert placed.height / 2 <= placed.y <= shown.height - placed.height / 2
    assert not any(itertools.starmap(overlap, itertools.combinations(shown.boxes, 2)))


def ends(path: str) -> tuple[tuple[float, float], tuple[float, float]]:
    numbers = [float(text) for text in re.findall(r"-?[\d.]+", path)]
    return (numbers[0], numbers[1]), (numbers[-2], numbers[-1])


@pytest.mark.parametrize("seed", range(5))
def test_every_link_goes_down_from_one_box_to_another(seed):
    shown = drawn(14, seed=seed)
    lower = {(box.x, box.y + box.height / 2) for box in shown.boxes}
    upper = {(box.x, box.y - box.height / 2) for box in shown.boxes}
    for link in shown.links:
        start, end = ends(link.path)
        assert start in lower
        assert end in upper
        assert start[1] < end[1]


def test_a_link_past_a_layer_keeps_clear_of_the_boxes_in_it():
    chain = [Link("a", "b", "t"), Link("b", "c", "t"), Link("a", "c", "t")]
    boxes = tuple(Box(key, "operator", "Op", key * 10) for key in "abc")
    shown = picture(Neighbourhood(boxes, tuple(chain), 0, frozenset()))
    middle = next(placed for placed in shown.boxes if placed.box.key == "b")
    (x,) = {float(x) for x in re.findall(r"([\d.]+) [\d.]+V", shown.links[2].path)}
    assert abs(x - middle.x) > middle.width / 2


def test_links_do_not_cross_where_they_need_not():
    """A shortcut past two products, each with weights of its own."""
    pairs = [("in", "add"), ("in", "first"), ("w1", "first"), ("second", "add"), ("w2", "second")]
    keys = sorted({key for pair in pairs for key in pair})
    boxes = tuple(Box(key, "operator", "Op", key) for key in keys)
    shown = picture(Neighbourhood(boxes, tuple(Link(*p, "t") for p in pairs), 0, frozenset()))
    lines = [ends(link.path) for link in shown.links]
    for (a, b), (c, d) in itertools.combinations(lines, 2):
        if a[1] == c[1] and b[1] == d[1]:
            assert (a[0] - c[0]) * (b[0] - d[0]) >= 0


def test_a_long_name_keeps_its_ends():
    name = "/model/encoder/layers.11/attention/self/query/MatMul"
    short = shortened(name)
    assert len(short) == LONGEST
    assert name.startswith(short.split("…")[0])
    assert name.endswith(short.split("…")[1])
    assert shortened("short") == "short"
