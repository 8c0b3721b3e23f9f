"""Start of the dense alignment: pointmaps chained along the most confident spanning tree.

References: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, section 3.4; the focal
lengths come from each image's own pointmaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from .samples import Float32Array, Float64Array, Samples
from .state import State, procrustes

_LONE_VOTE = 0.03  # relative standard deviation of a focal length that nothing confirms
_SUREST_VOTE = 0.005  # and of one on which all pairs agree


def spanning_tree(samples: Samples) -> list[int]:
    """Pairs of the spanning tree with the largest scores, in the order in which they are placed.

    The next pair is the best one that touches a placed image; where no pair does yet, the best of
    all.

    Raises:
        ValueError: the pairs do not connect all images.
    """
    count = len(samples.images)
    best: dict[tuple[int, int], int] = {}
    for e, (i, j) in enumerate(samples.pairs.tolist()):
        key = (min(i, j), max(i, j))
        if key not in best or samples.score[e] > samples.score[best[key]]:
            best[key] = e
    rows, columns = np.array(list(best)).T
    cost = 1.0 / np.maximum([samples.score[e] for e in best.values()], 1e-12)
    graph = coo_matrix((cost, (rows, columns)), shape=(count, count))
    components = connected_components(graph, directed=False)[0]
    if components > 1:
        raise ValueError(
            f"the pairs leave the images in {components} groups; align each group by itself"
        )
    tree = minimum_spanning_tree(graph).tocoo()
    edges = [best[(min(i, j), max(i, j))] for i, j in zip(tree.row, tree.col, strict=True)]
    waiting = sorted(edges, key=lambda e: (-samples.score[e], e))
    order = [waiting.pop(0)]
    placed = set(samples.pairs[order[0]].tolist())
    while waiting:
        edge = next(e for e in waiting if placed & set(samples.pairs[e].tolist()))
        waiting.remove(edge)
        placed |= set(samples.pairs[edge].tolist())
        order.append(edge)
    return order


@dataclass(frozen=True, eq=False)
class FocalVotes:
    """Focal lengths from the pointmaps of the images in their own cameras.

    Attributes:
        median: (N,) pixels; 1.2 times the long side for images that are never the frame of a pair.
        spread: (N,) how far the votes disagree, as a share; infinite without votes.
    """

    median: Float64Array
    spread: Float64Array


def focal_votes(samples: Samples, principal_point: Float64Array) -> FocalVotes:
    """Ask every pair for the focal length of its frame."""
    count = len(samples.images)
    median, deviation = np.empty(count), []
    voted = np.zeros(count, bool)
    for v, image in enumerate(samples.images):
        long_side, own = max(image.size), image.side == 0
        offset = image.xy - principal_point[v]
        votes = _focals(image.points[own], image.confidence[own], offset)
        votes = votes[(votes > 0.3 * long_side) & (votes < 8.0 * long_side)]
        voted[v] = len(votes) > 0
        median[v] = np.median(votes) if voted[v] else 1.2 * long_side
        if len(votes) > 1:
            deviation.append(np.abs(np.log(votes / median[v])))
    # pooled: the few votes of one image say little about their own spread
    pooled = 1.48 * float(np.median(np.concatenate(deviation))) if deviation else _LONE_VOTE
    return FocalVotes(median, np.where(voted, max(pooled, _SUREST_VOTE), np.inf))


def _focals(points: Float32Array, confidence: Float32Array, offset: Float64Array) -> Float64Array:
    """(D,) Weiszfeld focals of pointmaps in their own camera; `offset` from the principal point."""
    z = points[..., 2].astype(np.float64)
    front = (z > 0) & (confidence > 0)
    ray = np.where(front[..., None], points[..., :2] / np.where(front, z, 1)[..., None], 0)
    along, square = (ray * offset).sum(-1), (ray * ray).sum(-1)
    weight = np.where(front, confidence, 0).astype(np.float64)
    focal = np.full(len(points), np.nan)
    for _ in range(11):
        focal = (weight * along).sum(-1) / np.maximum((weight * square).sum(-1), 1e-300)
        distance = np.linalg.norm(offset - focal[:, None, None] * ray, axis=-1)
        weight = np.where(front, confidence, 0) / np.maximum(distance, 1e-8)
    return focal


def start_from_tree(samples: Samples, principal_point: Float64Array, focal: Float64Array) -> State:
    """Place every image along the spanning tree; the first image's camera is at the identity.

    Args:
        samples: the observations.
        principal_point: (N, 2) pixels.
        focal: (N,) pixels.

    Raises:
        ValueError: the pairs do not connect all images.
    """
    count = len(samples.images)
    world: dict[int, Float64Array] = {}
    poses: dict[int, tuple[Float64Array, Float64Array]] = {}
    for edge in spanning_tree(samples):
        frame, other = samples.pairs[edge].tolist()
        maps = [samples.map_of(edge, side) for side in (0, 1)]
        if not world:
            world[frame] = maps[0][0]
            poses[frame] = np.eye(3), np.zeros(3)
        side = 0 if frame in world else 1
        anchor, new = ((frame, other), (other, frame))[side]
        scale, rotation, shift = procrustes(maps[side][0], world[anchor], maps[side][1])
        world[new] = scale * maps[1 - side][0] @ rotation.T + shift
        poses.setdefault(frame, (rotation, shift))
    for v in range(count):
        if v not in poses:
            poses[v] = _pose_of(samples, v, world[v], focal[v], principal_point[v])
    fits = [
        procrustes(samples.map_of(e, 0)[0], world[int(i)], samples.map_of(e, 0)[1])
        for e, i in enumerate(samples.pairs[:, 0])
    ]
    depth = []
    for v in range(count):
        z = (world[v] - poses[v][1]) @ poses[v][0][:, 2]
        typical = np.median(z[z > 0]) if (z > 0).any() else 1.0
        depth.append(np.maximum(z, 1e-3 * typical))
    return State(
        rotation=np.stack([poses[v][0] for v in range(count)]),
        center=np.stack([poses[v][1] for v in range(count)]),
        focal=focal,
        principal_point=principal_point,
        depth=depth,
        pair_scale=np.array([f[0] for f in fits]),
        pair_rotation=np.stack([f[1] for f in fits]),
        pair_translation=np.stack([f[2] for f in fits]),
    ).at_base_scale()


def _pose_of(
    samples: Samples, v: int, world: Float64Array, focal: float, principal_point: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Pose of an image from its own best pointmap or, where it has none, by resection."""
    image = samples.images[v]
    frames = image.edge[image.side == 0]
    if len(frames):
        best = frames[np.argmax(samples.score[frames])]
        _, rotation, center = procrustes(
            samples.map_of(best, 0)[0], world, samples.map_of(best, 0)[1]
        )
        return rotation, center
    return _resection(world, image.xy - principal_point, focal, image.confidence[0])


def _resection(
    world: Float64Array, offset: Float64Array, focal: float, weight: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Rotation (world_from_cam) and centre of a camera that sees known points at known pixels.

    Alternates depths along the rays and a rigid fit (orthogonal iteration, Lu et al., PAMI 2000).
    """
    ray = np.concatenate([offset / focal, np.ones_like(offset[:, :1])], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    camera = ray * np.linalg.norm(world - world.mean(0), axis=-1).mean() * 3
    rotation, center = np.eye(3), np.zeros(3)
    for _ in range(50):
        scale, rotation, center = procrustes(camera / 1.0, world, weight.astype(np.float64))
        local = (world - center) @ rotation
        camera = ray * np.maximum((local * ray).sum(-1, keepdims=True), 1e-6)
    return rotation, center
