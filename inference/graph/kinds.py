"""Which images are compared with which: pair graphs that are always connected."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .retrieval import farthest_images

COMPLETE_UP_TO = 20
"""Largest number of images for which "auto" compares every pair."""

AUTO_NEIGHBOURS = 8
"""Most similar images that "auto" compares each image with, beyond `COMPLETE_UP_TO` (measured)."""

_HELP = (
    "use 'auto', 'complete', 'swin-<w>' (the w next images), 'logwin-<w>' (images 1, 2, 4, .. "
    "2^(w-1) further on), 'video-<w>' (the w next and some far ones), 'oneref-<k>' (image k with "
    "every other) or 'retrieval-<k>' (the k most similar images), e.g. 'swin-5', 'oneref-0'"
)
_PATTERN = (
    r"(auto|complete|swin|logwin|oneref|video|retrieval)(?:-(\d+))?(?:-(\d+))?"
    r"(?:-(noncyclic|cyclic|components))?"
)
_NUMBERS = {"swin": 1, "logwin": 1, "oneref": 1, "video": 1, "retrieval": 2}


def make_pairs(
    n: int,
    graph: str = "auto",
    cyclic: bool | None = None,
    similarity: ArrayLike | None = None,
) -> list[tuple[int, int]]:
    """List the unordered pairs of images to compare.

    The graph is always connected, every image can be reached from every other one, except for
    "retrieval-...-components".

    Args:
        n: number of images.
        graph: one of
            - "complete": every pair, n(n-1)/2.
            - "swin-<w>" (default w = 3): each image with the next w.
            - "logwin-<w>" (default w = 3): each image with those 1, 2, 4, .. 2^(w-1) further on.
            - "video-<w>" (default w = 5): each image with the next w, not around the end, and every
              w-th image with those 2w, 4w, 8w, .. further on, ever more sparsely: at most
              (w + 2) n pairs, in which a camera that comes back is recognised.
            - "oneref-<k>" (default k = 0): image k with every other one.
            - "retrieval-<k>" (default k = 8): each image with the k most similar ones, at most k n
              pairs, and a maximum spanning tree of the similarity; a suffix "-components" leaves
              the tree out. "retrieval-<a>-<k>" is the published graph: all pairs among a key
              images that are unlike each other, each image with its nearest key, and with the k
              most similar images, itself counted.
            - "auto": "complete" up to 20 images. Above that, when `similarity` is given,
              "retrieval-8" and each image with the next (photos are often taken in order): at most
              10 n pairs. Otherwise offsets 1, 2, 3, 5, 8, 13, ... up to half the collection, at
              most ten of them, around the ring, as many again, for ordered sequences.
            A suffix "-noncyclic" or "-cyclic" is understood for windows, too.
        cyclic: whether windows go around the end of the sequence. Default: yes for "auto" and,
            as in the published code, for windows whose name does not end in "noncyclic".
        similarity: (n, n), higher is more alike, e.g. from `image_similarity`; the diagonal is not
            read. Only "retrieval" and "auto" read it.

    Returns:
        Sorted (i, j) with i < j, without duplicates.

    Raises:
        ValueError: unknown graph, a window below 1, a reference image that does not exist, n < 1,
            a similarity of another shape, "retrieval" without a similarity.
    """
    if n < 1:
        raise ValueError(f"a pair graph needs at least one image, got n={n}")
    parsed = _parse(graph, cyclic)
    kind, number = parsed.kind, parsed.number
    if kind == "auto":
        kind = "complete" if n <= COMPLETE_UP_TO else "offsets"
        if kind == "offsets" and similarity is not None:
            alike = _checked_similarity(n, graph, similarity)
            pairs = retrieval_pairs(alike, AUTO_NEIGHBOURS)
            return sorted({*pairs, *_ring_pairs(n, [1], cyclic=False)})
    if kind == "complete":
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    if kind == "oneref":
        reference = 0 if number is None else number
        if reference >= n:
            raise ValueError(f"graph {graph!r}: image {reference} does not exist, n={n}")
        return sorted((min(reference, j), max(reference, j)) for j in range(n) if j != reference)
    if kind == "retrieval":
        alike = _checked_similarity(n, graph, similarity)
        if parsed.second is not None:
            keys, neighbours = number or 0, max(parsed.second - 1, 0)
            return retrieval_pairs(alike, neighbours, keys, connected=parsed.connected)
        neighbours = AUTO_NEIGHBOURS if number is None else number
        return retrieval_pairs(alike, neighbours, connected=parsed.connected)
    window = (5 if kind == "video" else 3) if number is None else number
    if window < 1:
        raise ValueError(f"graph {graph!r}: the window must be at least 1")
    if kind == "video":
        return _video_pairs(n, window)
    if kind == "offsets":
        offsets = _fibonacci_offsets(n // 2, at_most=10)
    elif kind == "swin":
        offsets = list(range(1, window + 1))
    else:
        offsets = [2**k for k in range(min(window, n.bit_length() + 1))]
    return _ring_pairs(n, offsets, parsed.cyclic)


def reads_similarity(n: int, graph: str) -> bool:
    """Whether `make_pairs(n, graph, similarity=...)` looks at the similarity of the images."""
    kind = _parse(graph, None).kind
    return kind == "retrieval" or (kind == "auto" and n > COMPLETE_UP_TO)


def retrieval_pairs(
    similarity: ArrayLike,
    neighbours: int,
    keys: int = 0,
    first_key: int | None = None,
    connected: bool = True,
) -> list[tuple[int, int]]:
    """Compare images that look alike.

    Args:
        similarity: (n, n), row i = what image i looks like; need not be symmetric.
        neighbours: most similar other images of each image; ties go to the lower index.
        keys: number of key images, picked far from each other; all pairs among them and each image
            with its nearest key.
        first_key: the first key; default: the image most like all others.
        connected: add the maximum spanning tree of the similarity.

    Returns:
        Sorted (i, j) with i < j, without duplicates.
    """
    alike = np.array(similarity, dtype=float)
    n = len(alike)
    found: list[tuple[int, int]] = []
    if keys > 0:
        picked, _ = farthest_images(alike, keys, first_key)
        found += [(i, j) for i in picked for j in picked]
        found += [(i, picked[int(alike[i, picked].argmax())]) for i in range(n) if i not in picked]
    np.fill_diagonal(alike, -np.inf)
    order = np.argsort(-alike, axis=1, kind="stable")[:, : min(neighbours, n - 1)]
    found += [(i, j) for i in range(n) for j in order[i].tolist()]
    if connected:
        found += maximum_spanning_tree(alike)
    return sorted({(min(i, j), max(i, j)) for i, j in found if i != j})


def maximum_spanning_tree(similarity: ArrayLike) -> list[tuple[int, int]]:
    """The n - 1 pairs (parent, child) that join n images with the largest sum of similarities.

    Grows from image 0 (Prim's algorithm, n^2 steps); ties go to the lower index. An asymmetric
    matrix counts with the larger of both directions.
    """
    alike = np.array(similarity, dtype=float)
    alike = np.maximum(alike, alike.T)
    outside = np.ones(len(alike), dtype=bool)
    outside[0] = False
    best, parent = alike[0].copy(), np.zeros(len(alike), dtype=int)
    tree = []
    for _ in range(len(alike) - 1):
        candidates = np.flatnonzero(outside)
        child = int(candidates[best[candidates].argmax()])
        tree.append((int(parent[child]), child))
        outside[child] = False
        closer = alike[child] > best
        best[closer], parent[closer] = alike[child][closer], child
    return tree


def limit_distance(
    pairs: Iterable[tuple[int, int]], largest: int, cyclic: bool = False
) -> list[tuple[int, int]]:
    """Keep the pairs of images at most `largest` apart in their sequence.

    Args:
        pairs: (i, j) in either order, kept as they are.
        largest: largest difference of the indices.
        cyclic: measure around the end of the sequence, too; its length is one more than the
            largest index in `pairs`.
    """
    listed = list(pairs)
    n = 1 + max((max(pair) for pair in listed), default=0)

    def distance(i: int, j: int) -> int:
        straight = abs(i - j)
        return min(straight, n - straight) if cyclic else straight

    return [(i, j) for i, j in listed if distance(i, j) <= largest]


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


class _Parsed(NamedTuple):
    kind: str
    number: int | None
    second: int | None
    cyclic: bool
    connected: bool


def _parse(graph: str, cyclic: bool | None) -> _Parsed:
    match = re.fullmatch(_PATTERN, graph)
    kind, *texts, suffix = match.groups() if match else ("", None, None, None)
    numbers = [int(text) for text in texts if text]
    around_end = kind not in ("video", "retrieval")
    if (
        match is None
        or len(numbers) > _NUMBERS.get(kind, 0)
        or (suffix in ("cyclic", "noncyclic") and not around_end)
        or (suffix == "components" and kind != "retrieval")
    ):
        raise ValueError(f"unknown pair graph {graph!r}; {_HELP}")
    if suffix in ("cyclic", "noncyclic") and cyclic not in (None, suffix == "cyclic"):
        raise ValueError(f"graph {graph!r} contradicts cyclic={cyclic}")
    around = suffix != "noncyclic" if cyclic is None else cyclic
    first, second = (*numbers, None, None)[:2]
    return _Parsed(kind, first, second, around, suffix != "components")


def _checked_similarity(n: int, graph: str, similarity: ArrayLike | None) -> NDArray[np.float64]:
    if similarity is None:
        raise ValueError(
            f"graph {graph!r} needs the similarity of the images: pass "
            "similarity=weav3r.inference.retrieval.image_similarity(encoded)"
        )
    alike = np.asarray(similarity, dtype=float)
    if alike.shape != (n, n) or not np.isfinite(alike).all():
        raise ValueError(
            f"graph {graph!r}: similarity must be finite and ({n}, {n}), got {alike.shape}"
        )
    return alike


def _video_pairs(n: int, window: int) -> list[tuple[int, int]]:
    """Pairs at most `window` apart, and ever longer jumps from ever fewer images."""
    pairs = [(i, i + d) for d in range(1, window + 1) for i in range(n - d)]
    jump = 2 * window
    while jump < n:
        pairs += [(i, i + jump) for i in range(0, n - jump, jump // 2)]
        jump *= 2
    return sorted(pairs)


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
