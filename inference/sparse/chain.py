"""Kinematic chain: along which pairs the images are placed one after the other.

Reference: Duisterhof et al., "MASt3R-SfM", 3DV 2025, section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial.distance import squareform

ChainKind = Literal["ward", "mst", "star"]


@dataclass(frozen=True)
class Chain:
    """A tree over all images.

    Attributes:
        root: the image placed first.
        edges: (parent, child), each parent before its children.
    """

    root: int
    edges: list[tuple[int, int]]


def make_chain(
    scores: NDArray[Any], kind: ChainKind = "ward", patches: NDArray[Any] | None = None
) -> Chain:
    """Choose the tree along which images are placed.

    Args:
        scores: (N, N) symmetric, at least zero, e.g. numbers of matches; zero where no pair is.
        kind: "mst" takes the maximum spanning tree, "ward" joins clusters of images that share
            most, "star" hangs as many images as possible on the one that shares most.
        patches: (N,) most matches that an image can have, for "ward".

    Raises:
        ValueError: the pairs do not connect all images.
    """
    scores = np.asarray(scores, dtype=np.float64)
    count = len(scores)
    if count == 1:
        return Chain(0, [])
    if kind == "ward":
        edges = _ward_edges(scores, np.full(count, scores.max()) if patches is None else patches)
    elif kind in ("mst", "star"):
        weight = scores + scores.max() * _star(scores) if kind == "star" else scores
        tree = minimum_spanning_tree(csr_matrix(-np.triu(np.maximum(weight, weight.T), 1))).tocoo()
        edges = list(zip(tree.row.tolist(), tree.col.tolist(), strict=True))
    else:
        raise ValueError(f'the chain must be "ward", "mst" or "star", got {kind!r}')
    ends = np.sort(np.array(edges), axis=1).T
    graph = csr_matrix((np.ones(len(edges)), (ends[0], ends[1])), shape=(count, count))
    start, ranks = 0, []
    for _ in range(3):
        order, _ = breadth_first_order(graph, start, directed=False)
        if len(order) < count:
            raise ValueError("the pairs do not connect all images; align each group by itself")
        ranks.append(np.argsort(order))
        start = int(order[-1])
    root = int(np.argmax(np.minimum(ranks[1], ranks[2])))
    if kind == "star":
        root = int(np.argmax(scores.sum(0)))
    order, parents = breadth_first_order(graph, root, directed=False)
    return Chain(root, [(int(parents[i]), int(i)) for i in order[1:]])


def _star(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """One for the pairs of the image that shares most."""
    centre = int(np.argmax(scores.sum(0)))
    rays = np.zeros_like(scores)
    rays[centre] = rays[:, centre] = scores[centre] > 0
    return rays


def _ward_edges(scores: NDArray[np.float64], patches: NDArray[Any]) -> list[tuple[int, int]]:
    """Join the representatives of the clusters that an agglomerative clustering joins."""
    count = len(scores)
    affinity = np.minimum(scores / (3 * np.minimum(patches[:, None], patches[None])), 1.0)
    np.fill_diagonal(affinity, 1.0)
    distance = np.where(affinity > 0, 1 - affinity, 2.0)
    merges = linkage(squareform(distance, checks=False), method="ward")
    representative = list(range(count))
    edges = []
    for a, b, _, _ in merges:
        i, j = representative[int(a)], representative[int(b)]
        edges.append((i, j))
        keep, drop = (i, j) if affinity[i].sum() > affinity[j].sum() else (j, i)
        affinity[keep] = np.maximum(affinity[keep], affinity[drop])
        representative.append(keep)
    return edges
