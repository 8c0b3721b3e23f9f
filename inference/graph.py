"""Which images are compared with which: pair graphs that are always connected."""

from __future__ import annotations

import re
from collections.abc import Iterable

COMPLETE_UP_TO = 20
"""Largest number of images for which "auto" compares every pair."""

_HELP = (
    "use 'auto', 'complete', 'swin-<w>' (the w next images), 'logwin-<w>' (images 1, 2, 4, .. "
    "2^(w-1) further on) or 'oneref-<k>' (image k with every other), e.g. 'swin-5', 'oneref-0'"
)


def make_pairs(n: int, graph: str = "auto", cyclic: bool | None = None) -> list[tuple[int, int]]:
    """List the unordered pairs of images to compare.

    The graph is always connected: every image can be reached from every other one.

    Args:
        n: number of images.
        graph: one of
            - "complete": every pair, n(n-1)/2.
            - "swin-<w>" (default w = 3): each image with the next w.
            - "logwin-<w>" (default w = 3): each image with those 1, 2, 4, .. 2^(w-1) further on.
            - "oneref-<k>" (default k = 0): image k with every other one.
            - "auto": "complete" up to 20 images; above that, offsets 1, 2, 3, 5, 8, 13, ... up to
              half the collection, at most ten of them, around the ring. The number of pairs is
              linear in n (<= 10 n), neighbours are covered densely and the long offsets close loops
              in an ordered sequence; unordered collections need a graph from image similarity.
            A suffix "-noncyclic" or "-cyclic" is understood, too.
        cyclic: whether windows go around the end of the sequence. Default: yes for "auto" and,
            as in the published code, for windows whose name does not end in "noncyclic".

    Returns:
        Sorted (i, j) with i < j, without duplicates.

    Raises:
        ValueError: unknown graph, a window below 1, a reference image that does not exist, n < 1.
    """
    if n < 1:
        raise ValueError(f"a pair graph needs at least one image, got n={n}")
    kind, number, around = _parse(graph, cyclic)
    if kind == "auto":
        kind = "complete" if n <= COMPLETE_UP_TO else "offsets"
    if kind == "complete":
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    if kind == "oneref":
        reference = 0 if number is None else number
        if reference >= n:
            raise ValueError(f"graph {graph!r}: image {reference} does not exist, n={n}")
        return sorted((min(reference, j), max(reference, j)) for j in range(n) if j != reference)
    window = 3 if number is None else number
    if window < 1:
        raise ValueError(f"graph {graph!r}: the window must be at least 1")
    if kind == "offsets":
        offsets = _fibonacci_offsets(n // 2, at_most=10)
    elif kind == "swin":
        offsets = list(range(1, window + 1))
    else:
        offsets = [2**k for k in range(min(window, n.bit_length() + 1))]
    return _ring_pairs(n, offsets, around)


def is_connected(n: int, pairs: Iterable[tuple[int, int]]) -> bool:
    """Whether the pairs join all n images into one graph."""
    return len(connected_components(n, pairs)) <= 1


def connected_components(n: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of images joined by pairs: each sorted, largest group first, ties by first image."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        parent[root(i)] = root(j)
    groups: dict[int, list[int]] = {}
    for i in range(n):
        groups.setdefault(root(i), []).append(i)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def _parse(graph: str, cyclic: bool | None) -> tuple[str, int | None, bool]:
    match = re.fullmatch(
        r"(auto|complete|swin|logwin|oneref)(?:-(\d+))?(?:-(noncyclic|cyclic))?", graph
    )
    kind = match.group(1) if match else ""
    takes_number = kind in ("swin", "logwin", "oneref")
    if match is None or (match.group(2) and not takes_number):
        raise ValueError(f"unknown pair graph {graph!r}; {_HELP}")
    named = match.group(3)
    if None not in (cyclic, named) and cyclic != (named == "cyclic"):
        raise ValueError(f"graph {graph!r} contradicts cyclic={cyclic}")
    around = named != "noncyclic" if cyclic is None else cyclic
    return kind, int(match.group(2)) if match.group(2) else None, around


def _ring_pairs(n: int, offsets: Iterable[int], cyclic: bool) -> list[tuple[int, int]]:
    """Pairs (i, i + d), around the ring or up to its end; offset 1 connects the graph."""
    pairs = set()
    for d in offsets:
        for i in range(n):
            j = i + d
            if j >= n:
                if not cyclic:
                    break
                j %= n
            if i != j:
                pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def _fibonacci_offsets(largest: int, at_most: int) -> list[int]:
    """1, 2, 3, 5, 8, ... up to `largest`, thinned evenly to `at_most`; 1 is always there."""
    offsets, following = [1], 2
    while following <= largest:
        offsets.append(following)
        following = offsets[-1] + offsets[-2]
    if len(offsets) <= at_most:
        return offsets
    last = len(offsets) - 1
    return [offsets[round(k * last / (at_most - 1))] for k in range(at_most)]
