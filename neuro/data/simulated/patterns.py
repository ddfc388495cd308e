"""Random binary masks of five families of patterns, on tiles that repeat in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from neuro.data import store

#: how often a shape is placed at random before the tile counts as full
_TRIES = 20


class Rules(NamedTuple):
    """Design rules in pixels: widths of features, and the least space between two of them."""

    narrow: int
    wide: int
    space: int

    def width(self, rng: np.random.Generator) -> int:
        """A random width."""
        return int(rng.integers(self.narrow, self.wide, endpoint=True))


class _Box(NamedTuple):
    """A rectangle: its first row and column, and its size. It may cross the edge of the tile."""

    y: int
    x: int
    height: int
    width: int


def draw(family: str, size: int, rules: Rules, rng: np.random.Generator) -> store.Array:
    """A mask uint8 `[size, size]` of a family, 1 where light passes; never empty."""
    mask = np.zeros((size, size), np.uint8)
    boxes = FAMILIES[family](size, rules, rng)
    for box in boxes:
        rows = np.arange(box.y, box.y + box.height) % size
        columns = np.arange(box.x, box.x + box.width) % size
        mask[rows[:, None], columns] = 1
    return mask


def _vertical_lines(size: int, rules: Rules, rng: np.random.Generator) -> Iterator[_Box]:
    """Lines of random widths and spaces; every other one, on average, ends within the tile."""
    first, x = int(rng.integers(size)), 0
    while True:
        width = rules.width(rng)
        gap = int(rng.integers(rules.space, rules.space + rules.wide, endpoint=True))
        if x + width + rules.space > size:
            return
        if rng.random() < 0.5:
            yield _Box(0, first + x, size, width)
        else:
            length = int(rng.integers(size // 4, size - rules.space, endpoint=True))
            yield _Box(int(rng.integers(size)), first + x, length, width)
        x += width + gap


def _horizontal_lines(size: int, rules: Rules, rng: np.random.Generator) -> Iterator[_Box]:
    for box in _vertical_lines(size, rules, rng):
        yield _Box(box.x, box.y, box.width, box.height)


def _placed(
    size: int, rules: Rules, rng: np.random.Generator, shape: Callable[[], list[_Box]]
) -> Iterator[_Box]:
    """Random shapes at random places, apart from each other, up to a random number of them."""
    kept: list[_Box] = []
    most = int(rng.integers(2, 12, endpoint=True))
    for _ in range(most * _TRIES):
        down, right = rng.integers(size, size=2).tolist()
        boxes = [box._replace(y=box.y + down, x=box.x + right) for box in shape()]
        if not any(_near(a, b, size, rules.space) for a in boxes for b in kept):
            kept += boxes
            most -= 1
            yield from boxes
            if not most:
                return


def _near(a: _Box, b: _Box, size: int, space: int) -> bool:
    """Whether two boxes overlap or are closer than `space`, also around the edges of the tile."""

    def close(start: int, length: int, other: int, of_other: int) -> bool:
        ahead = (other - start) % size
        return ahead < length + space or size - ahead < of_other + space

    return close(a.y, a.height, b.y, b.height) and close(a.x, a.width, b.x, b.width)


def _contacts(size: int, rules: Rules, rng: np.random.Generator) -> Iterator[_Box]:
    """Square holes of one size."""
    side = rules.width(rng)
    return _placed(size, rules, rng, lambda: [_Box(0, 0, side, side)])


def _rectangles(size: int, rules: Rules, rng: np.random.Generator) -> Iterator[_Box]:
    return _placed(
        size, rules, rng, lambda: [_Box(0, 0, 2 * rules.width(rng), 2 * rules.width(rng))]
    )


def _l_shapes(size: int, rules: Rules, rng: np.random.Generator) -> Iterator[_Box]:
    """Two bars of one width that meet at a corner, in any of the four orientations."""

    def shape() -> list[_Box]:
        width = rules.width(rng)
        tall, long = (width + rules.space + rules.width(rng) for _ in range(2))
        right, bottom = rng.random(2) < 0.5
        return [
            _Box(0, (long - width) * int(right), tall, width),
            _Box((tall - width) * int(bottom), 0, width, long),
        ]

    return _placed(size, rules, rng, shape)


#: the boxes of a random mask, by family
FAMILIES: dict[str, Callable[[int, Rules, np.random.Generator], Iterator[_Box]]] = {
    "vertical_lines": _vertical_lines,
    "horizontal_lines": _horizontal_lines,
    "contacts": _contacts,
    "l_shapes": _l_shapes,
    "rectangles": _rectangles,
}
