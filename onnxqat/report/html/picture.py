"""Where to draw the boxes and links of a neighbourhood: data flows down, in layers.

The method of Sugiyama, Tagawa and Toda (1981) in small: layers by the longest path, places kept
free for links that pass a layer, few crossings by the barycentre of neighbours, then coordinates.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count, pairwise

from onnxqat.report.html.neighbourhood import Box, Neighbourhood

CHARACTER = 6.6
"""Width of a character of the pictures' monospaced type, in pixels."""
LONGEST = 26
"""Characters of a name that are shown; the middle of a longer one is left out."""
BOX_HEIGHT, PADDING = 40.0, 10.0
GAP, LAYER_GAP = 18.0, 30.0
PASS_WIDTH = 8.0
"""What a link takes of a layer that it passes."""
MARGIN = 6.0
SWEEPS = 8
TRIES = 12
"""Orders to begin with: the sweeps end in the nearest good order, not in the best."""


@dataclass(frozen=True)
class PlacedBox:
    """A box with its centre and size in pixels."""

    box: Box
    x: float
    y: float
    width: float
    height: float

    @property
    def detail(self) -> str:
        """The name, short enough for the box."""
        return shortened(self.box.detail)


@dataclass(frozen=True)
class PlacedLink:
    """A link as an SVG path, with the name of the tensor that it stands for."""

    path: str
    tensor: str


@dataclass(frozen=True)
class Picture:
    """Everything placed, in pixels from the upper left corner."""

    width: float
    height: float
    boxes: tuple[PlacedBox, ...]
    links: tuple[PlacedLink, ...]
    hidden: int


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name without its middle, where it is long: its ends tell more."""
    if len(name) <= longest:
        return name
    head = (longest - 1) // 3
    return f"{name[:head]}…{name[head + 1 - longest :]}"


def picture(neighbourhood: Neighbourhood) -> Picture:
    """The neighbourhood, laid out."""
    return _Layout(neighbourhood).picture()


class _Layout:
    """The steps of the method, each on the results of the one before."""

    def __init__(self, neighbourhood: Neighbourhood) -> None:
        self._given = neighbourhood
        self._widths = {box.key: _width(box) for box in neighbourhood.boxes}
        self._ranks = _ranks(neighbourhood)
        self._routes = self._with_passes()
        self._layers = self._ordered()
        self._x = self._coordinates()

    def picture(self) -> Picture:
        left = min(self._x[key] - self._widths[key] / 2 for key in self._x) - MARGIN
        right = max(self._x[key] + self._widths[key] / 2 for key in self._x) + MARGIN
        self._x = {key: x - left for key, x in self._x.items()}
        boxes = tuple(self._placed(box) for box in self._given.boxes)
        links = tuple(
            PlacedLink(self._path(route), link.tensor)
            for link, route in zip(self._given.links, self._routes, strict=True)
        )
        height = 2 * MARGIN + len(self._layers) * (BOX_HEIGHT + LAYER_GAP) - LAYER_GAP
        return Picture(round(right - left, 1), height, boxes, links, self._given.hidden)

    def _with_passes(self) -> list[list[str]]:
        """Each link as the keys it goes through: a new one in every layer that it passes."""
        number = count()
        routes = []
        for link in self._given.links:
            route = [link.source]
            for rank in range(self._ranks[link.source] + 1, self._ranks[link.target]):
                key = f"pass {next(number)}"
                self._ranks[key], self._widths[key] = rank, PASS_WIDTH
                route.append(key)
            routes.append([*route, link.target])
        return routes

    def _ordered(self) -> list[list[str]]:
        """The layers from above, each from left to right: the best of several tries."""
        layers: list[list[str]] = [[] for _ in range(max(self._ranks.values()) + 1)]
        for key, rank in self._ranks.items():
            layers[rank].append(key)
        order = random.Random(0)  # noqa: S311 # the same picture each time
        shuffled = ([order.sample(x, len(x)) for x in layers] for _ in range(TRIES - 1))
        tries = (self._swept(start) for start in (layers, *shuffled))
        return min(tries, key=self._crossings)  # of equals the first

    def _crossings(self, layers: Sequence[Sequence[str]]) -> int:
        """How many pairs of links cross."""
        places = {key: place for keys in layers for place, key in enumerate(keys)}
        steps: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for upper, lower in (step for route in self._routes for step in pairwise(route)):
            steps[self._ranks[upper]].append((places[upper], places[lower]))
        pairs = (pair for found in steps.values() for pair in combinations(found, 2))
        return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs)

    def _swept(self, start: Sequence[Sequence[str]]) -> list[list[str]]:
        """An order in which each box lies near the mean place of its neighbours."""
        layers = [list(layer) for layer in start]
        above, below = self._neighbours()
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            near = above if down else below
            for layer in layers if down else reversed(layers):
                places = {key: place for keys in layers for place, key in enumerate(keys)}
                layer.sort(key=lambda key: _mean(near[key], places, places[key]))
        return layers

    def _neighbours(self) -> tuple[Mapping[str, list[str]], Mapping[str, list[str]]]:
        above: dict[str, list[str]] = defaultdict(list)
        below: dict[str, list[str]] = defaultdict(list)
        for route in self._routes:
            for upper, lower in pairwise(route):
                above[lower].append(upper)
                below[upper].append(lower)
        return above, below

    def _coordinates(self) -> dict[str, float]:
        """Centres: each as near to its neighbours' mean as the others of its layer let it be."""
        x: dict[str, float] = {}
        for layer in self._layers:
            x |= self._apart(layer, dict.fromkeys(layer, 0.0))
        above, below = self._neighbours()
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            for layer in self._layers if down else reversed(self._layers):
                near = above if down else below
                x |= self._apart(layer, {key: _mean(near[key], x, x[key]) for key in layer})
        return x

    def _apart(self, layer: Sequence[str], wanted: Mapping[str, float]) -> dict[str, float]:
        """Positions in the layer's order, far enough apart, on average where they are wanted."""
        offsets = [0.0]
        for left, right in pairwise(layer):
            space = (self._widths[left] + self._widths[right]) / 2 + GAP
            offsets.append(offsets[-1] + space)
        placed = _not_decreasing([wanted[k] - o for k, o in zip(layer, offsets, strict=True)])
        return {key: p + o for key, p, o in zip(layer, placed, offsets, strict=True)}

    def _placed(self, box: Box) -> PlacedBox:
        y = self._top(box.key) + BOX_HEIGHT / 2
        return PlacedBox(box, round(self._x[box.key], 1), y, self._widths[box.key], BOX_HEIGHT)

    def _top(self, key: str) -> float:
        return MARGIN + self._ranks[key] * (BOX_HEIGHT + LAYER_GAP)

    def _path(self, route: Sequence[str]) -> str:
        """From the lower edge of the first box to the upper edge of the last, in soft bends."""
        x, y = self._x[route[0]], self._top(route[0]) + BOX_HEIGHT
        path = f"M{x:.1f} {y:.1f}"
        for key in route[1:]:
            to_x, to_y = self._x[key], self._top(key)
            bend = (y + to_y) / 2
            path += f"C{x:.1f} {bend:.1f} {to_x:.1f} {bend:.1f} {to_x:.1f} {to_y:.1f}"
            x, y = to_x, to_y
            if key != route[-1]:
                y += BOX_HEIGHT
                path += f"V{y:.1f}"
        return path


def _width(box: Box) -> float:
    longest = max(len(shortened(box.detail)), len(box.title))
    return round(longest * CHARACTER + 2 * PADDING, 1)


def _ranks(given: Neighbourhood) -> dict[str, int]:
    """Layer of each box: below all that it reads, but what nothing feeds right above its reader."""
    readers, sources = defaultdict(list), defaultdict(list)
    for link in given.links:
        readers[link.source].append(link.target)
        sources[link.target].append(link.source)
    ranks = {box.key: 0 for box in given.boxes}
    for _ in given.boxes:  # the longest path is no longer than that
        for key in ranks:
            ranks[key] = max((ranks[source] + 1 for source in sources[key]), default=0)
    for key in ranks:
        if not sources[key] and readers[key]:
            ranks[key] = min(ranks[reader] for reader in readers[key]) - 1
    return ranks


def _mean(near: Sequence[str], values: Mapping[str, float], default: float) -> float:
    return sum(values[key] for key in near) / len(near) if near else default


def _not_decreasing(values: Sequence[float]) -> list[float]:
    """The nearest values, by squares, that do not decrease (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (upper, m), (lower, n) = blocks.pop(-2), blocks.pop()
            blocks.append(((upper * m + lower * n) / (m + n), m + n))
    return [value for value, length in blocks for _ in range(length)]
