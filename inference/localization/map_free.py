"""Localise a photo against one other photo: no map, the network's own depth sets the scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ...geometry._epipolar import depths, rays
from ...geometry.camera import Camera
from ...geometry.pointmap import focal_from_pointmap
from ...geometry.pose import relative_pose
from ...models.two_view import TwoViewModel
from ..images import View
from ..matching.methods import MatcherOptions, match_views
from ..predict import PairResult, Precision, encode_views, predict_pairs
from .pixel_points import DepthPoints
from .pose import MIN_INLIERS, confidence_of, occupied_cells, pose_covariance, solve_pose
from .result import Localization

MAP_SUFFIXES = (".npz",)
"""Files that are a map, and not the one photo of a map-free query."""

MIN_PARALLAX_DEG = 1.0
_MAX_ERROR_NETWORK_PX = 1.5
_METRIC_MODELS = ("mast3r-512",)


@dataclass(frozen=True, eq=False)
class _Pair:
    """What the network says about reference and query, in original pixels."""

    reference: View
    query: View
    xy_reference: np.ndarray
    xy_query: np.ndarray
    points: DepthPoints
    metric: bool


def predicts_metres(model: TwoViewModel) -> bool:
    """Whether the units of a checkpoint's pointmaps are metres."""
    return model.config.name in _METRIC_MODELS


def localize_against_photo(
    query: View,
    reference: View,
    model: TwoViewModel,
    K: np.ndarray | None = None,
    K_reference: np.ndarray | None = None,
    matching: MatcherOptions | None = None,
    min_inliers: int = MIN_INLIERS,
    precision: Precision = "float32",
) -> Localization:
    """Localise a query in the camera frame of one reference photo.

    With both intrinsics known, rotation and direction come from the epipolar geometry and only the
    length of the translation from the predicted depth, whenever the camera moved enough to see it;
    otherwise the pose is found against the predicted points.

    Args:
        query, reference: from `load_images`.
        model: any two-view checkpoint.
        K: (3, 3) of the query, original pixels; None estimates a focal length.
        K_reference: the same of the reference.
        matching: how predictions become matches; None is the default for the checkpoint.
        min_inliers: fewest matches that must agree.
        precision: of the network.

    Returns:
        `cam_from_world` with the reference's camera as the world; in metres only where the
        checkpoint predicts metres (`scale`).
    """
    encoded = encode_views(model, [reference, query], precision=precision)
    result = next(predict_pairs(model, encoded, [(0, 1)], precision=precision))
    pair = _read(
        result, reference, query, K_reference, matching, predicts_metres(model), model.device
    )
    found = None
    if K is not None and K_reference is not None:
        found = _from_epipolar_geometry(pair, K, K_reference, min_inliers)
    return found or _from_points(pair, K, min_inliers)


def _read(
    result: PairResult,
    reference: View,
    query: View,
    K_reference: np.ndarray | None,
    matching: MatcherOptions | None,
    metric: bool,
    device: torch.device,
) -> _Pair:
    own = result.forward.view1
    if K_reference is None:
        focal = float(focal_from_pointmap(own.pointmap, own.confidence))
        height, width = reference.size
        inner = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        K_reference = np.asarray(reference.ledger.K_to_original(inner), dtype=np.float64)
    camera = Camera(K_reference, np.eye(4), *reference.ledger.original_size)
    depth = own.pointmap[..., 2].to(torch.float64).numpy()
    matches = match_views(result, reference, query, matching, device)
    return _Pair(
        reference,
        query,
        matches.xy1.astype(np.float64),
        matches.xy2.astype(np.float64),
        DepthPoints(camera, depth, reference.ledger),
        metric,
    )


def _from_epipolar_geometry(
    pair: _Pair, K: np.ndarray, K_reference: np.ndarray, min_inliers: int
) -> Localization | None:
    """None when the matches leave the direction of the translation open."""
    size1, size2 = pair.reference.ledger.original_size, pair.query.ledger.original_size
    scale = max(pair.reference.pixel_scale, pair.query.pixel_scale)
    estimate = relative_pose(
        *(pair.xy_reference, pair.xy_query, K_reference, K, size1, size2),
        max_error_px=_MAX_ERROR_NETWORK_PX * scale,
        min_inliers=min_inliers,
    )
    if not estimate or estimate.kind == "rotation" or estimate.parallax_deg < MIN_PARALLAX_DEG:
        return None
    use = estimate.inliers
    xy1, xy2 = pair.xy_reference[use], pair.xy_query[use]
    far, _, angle = depths(estimate.cam2_from_cam1, rays(xy1, K_reference), rays(xy2, K))
    in_reference = rays(xy1, K_reference)
    in_reference /= np.linalg.norm(in_reference, axis=1, keepdims=True)
    triangulated = in_reference * far[:, None]
    predicted = pair.points.at(xy1)[:, 2]
    ratio = predicted / triangulated[:, 2]
    votes = np.isfinite(ratio) & (ratio > 0) & (angle > MIN_PARALLAX_DEG / 2)
    if votes.sum() < min_inliers:
        return None
    logs = np.log(ratio[votes])
    length = float(np.exp(np.median(logs)))
    pose = estimate.cam2_from_cam1.copy()
    pose[:3, 3] *= length
    cells = occupied_cells(xy2[votes], size2)
    covariance = pose_covariance(xy2[votes], length * triangulated[votes], K, pose, cells)
    spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs)))) / np.sqrt(cells)
    covariance[3:, 3:] += np.outer(pose[:3, 3], pose[:3, 3]) * spread**2
    return _answer(
        pair, pose, K, use, covariance, confidence_of(occupied_cells(xy2, size2)), "given"
    )


def _from_points(pair: _Pair, K: np.ndarray | None, min_inliers: int) -> Localization:
    xyz = pair.points.at(pair.xy_reference)
    solved = solve_pose(
        pair.xy_query,
        xyz,
        pair.query.ledger.original_size,
        K,
        max_error_px=2 * _MAX_ERROR_NETWORK_PX * pair.query.pixel_scale,
        min_inliers=min_inliers,
    )
    estimate = solved.estimate
    if not estimate:
        reason = f"{len(xyz)} matches with {pair.reference.name}: {estimate.reason}"
        return _answer(pair, None, K, estimate.inliers, None, 0.0, "unknown", reason)
    return _answer(
        *(pair, estimate.cam_from_world, estimate.K, estimate.inliers),
        *(solved.covariance, solved.confidence, solved.focal),
    )


def _answer(
    pair: _Pair,
    cam_from_world: np.ndarray | None,
    K: np.ndarray | None,
    inliers: np.ndarray,
    covariance: np.ndarray | None,
    confidence: float,
    focal: Literal["given", "estimated", "unknown"],
    reason: str = "",
) -> Localization:
    return Localization(
        name=pair.query.name,
        cam_from_world=cam_from_world,
        K=K,
        size=pair.query.ledger.original_size,
        xy=pair.xy_query,
        xyz=pair.points.at(pair.xy_reference),
        inliers=inliers,
        covariance=covariance,
        confidence=confidence,
        scale="metric" if pair.metric else "relative",
        references=(pair.reference.name,),
        focal=focal,
        reason=reason,
    )
