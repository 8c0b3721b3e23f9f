"""How the camera moved between two photos, from everything that is known about the pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..geometry._epipolar import depths, rays
from ..geometry._estimates import no_pose
from ..geometry.pose import RelativePoseEstimate, relative_pose, relative_pose_unknown_focal
from .agreement import SUREST_AGREE, number_of_surest
from .alignment.pairs import sample_pair
from .images import View
from .matching.descriptors import Matches
from .predict import PairResult

FocalSharing = Literal["auto", "shared", "separate"]

_EXIF_LOG_SIGMA, _NETWORK_LOG_SIGMA = 0.1, 0.35
_FOCAL_SHARES = 0.6, 2.0  # of the long side, for what the network believes


def pose_of_pair(
    matches: Matches,
    view1: View,
    view2: View,
    K1: np.ndarray | None = None,
    K2: np.ndarray | None = None,
    max_error_px: float | None = None,
    focal: FocalSharing = "auto",
    result: PairResult | None = None,
    metric: bool = False,
) -> RelativePoseEstimate:
    """Pose of the second camera relative to the first.

    Args:
        matches: in original pixels, surest first.
        view1: the first photo.
        view2: the second.
        K1: (3, 3) intrinsics in original pixels, with K2; None estimates focal lengths.
        K2: (3, 3) of the second photo.
        max_error_px: inlier threshold in original pixels; default: 1.5 pixels of the network's
            input.
        focal: whether both photos have one unknown focal length; "auto": if their sizes and EXIF
            focal lengths are equal.
        result: what the network predicted, for its focal lengths and the length of the translation.
        metric: whether its pointmaps are in metres.

    Raises:
        ValueError: if only one of K1 and K2 is given, or `focal` is unknown.
    """
    if (K1 is None) != (K2 is None):
        raise ValueError("give both K1 and K2, or neither")
    if focal not in ("auto", "shared", "separate"):
        raise ValueError(f"focal must be 'auto', 'shared' or 'separate', got {focal!r}")
    sizes = view1.ledger.original_size, view2.ledger.original_size
    if max_error_px is None:
        max_error_px = 1.5 * max(view1.pixel_scale, view2.pixel_scale)
    xy1, xy2 = matches.xy1, matches.xy2
    if K1 is not None and K2 is not None:
        found = relative_pose(xy1, xy2, K1, K2, *sizes, max_error_px)
    else:
        known = view1.exif_focal_px, view2.exif_focal_px
        alike = sizes[0] == sizes[1] and known[0] == known[1]
        exif = known[0] is not None and known[1] is not None
        found = relative_pose_unknown_focal(
            *(xy1, xy2, *sizes, max_error_px),
            shared=alike if focal == "auto" else focal == "shared",
            guesses_px=known if exif else _network_focals(view1, view2, result),
            guess_log_sigma=_EXIF_LOG_SIGMA if exif else _NETWORK_LOG_SIGMA,
        )
    found = _if_the_surest_agree(found, matches)
    if not found or found.kind == "rotation" or not metric or result is None:
        return found
    return _in_metres(found, matches, view1, view2, result)


def _network_focals(
    view1: View, view2: View, result: PairResult | None
) -> tuple[float | None, float | None]:
    """Focal lengths of the regressed pointmaps in original pixels, kept sane."""
    if result is None:
        return None, None
    focals: list[float | None] = []
    for view, sample in zip((view1, view2), sample_pair(result), strict=True):
        long_side = max(view.ledger.original_size)
        low, high = (share * long_side for share in _FOCAL_SHARES)
        guess = sample.focal_px * view.pixel_scale
        focals.append(float(np.clip(guess, low, high)) if np.isfinite(guess) else None)
    return focals[0], focals[1]


def _if_the_surest_agree(found: RelativePoseEstimate, matches: Matches) -> RelativePoseEstimate:
    """The estimate, or its failure where the surest matches speak against it."""
    order = np.argsort(-matches.confidence, kind="stable")
    surest = order[: number_of_surest(len(matches))]
    if not found or not len(surest):
        return found
    agree = float(found.inliers[surest].mean())
    if agree >= SUREST_AGREE:
        return found
    return RelativePoseEstimate(
        cam2_from_cam1=no_pose(),
        inliers=np.zeros(len(matches), bool),
        num_inliers=0,
        K1=found.K1,
        K2=found.K2,
        kind="no_common_motion",
        alternatives=(found.best_guess,),
        reason=f"{found.num_inliers} of {len(matches)} matches agree on a camera motion, but only "
        f"{100 * agree:.0f} % of the {len(surest)} surest: the photos may show different places "
        "that look alike, or share too little",
    )


def _in_metres(
    found: RelativePoseEstimate,
    matches: Matches,
    view1: View,
    view2: View,
    result: PairResult,
) -> RelativePoseEstimate:
    """Scale the translation so that triangulated depths are those of the metric pointmaps."""
    use = found.inliers
    xy1, xy2 = matches.xy1[use].astype(np.float64), matches.xy2[use].astype(np.float64)
    rays1, rays2 = rays(xy1, found.K1), rays(xy2, found.K2)
    length1, length2, angle = depths(found.cam2_from_cam1, rays1, rays2)
    sure = angle >= np.median(angle)
    logs: list[NDArray[np.float64]] = []
    for view, xy, seen, length, prediction in (
        (view1, xy1, rays1, length1, result.forward.view1),
        (view2, xy2, rays2, length2, result.backward.view1),
    ):
        network = np.asarray(view.ledger.points_to_network(xy))
        height, width = view.size
        columns = np.clip(np.floor(network[:, 0]).astype(int), 0, width - 1)
        rows = np.clip(np.floor(network[:, 1]).astype(int), 0, height - 1)
        predicted = prediction.pointmap[rows, columns, 2].double().numpy()
        triangulated = length / np.linalg.norm(seen, axis=1)
        good = sure & (predicted > 0) & (triangulated > 0)
        logs.append(np.log(predicted[good] / triangulated[good]))
    ratios = np.concatenate(logs)
    if len(ratios) < 8:
        return found
    scale = float(np.exp(np.median(ratios)))
    pose = found.cam2_from_cam1.copy()
    pose[:3, 3] *= scale
    return replace(found, cam2_from_cam1=pose, metric=True)


def describe_pose(found: RelativePoseEstimate, estimated_focal: bool) -> list[str]:
    """Lines for people about a relative pose."""
    if not found:
        return [f"no camera motion found ({found.kind.replace('_', ' ')}): {found.reason}"]
    pose = found.cam2_from_cam1
    angle = np.degrees(np.arccos(np.clip((np.trace(pose[:3, :3]) - 1) / 2, -1, 1)))
    lines = [
        f"{found.num_inliers} of {len(found.inliers)} matches agree with one camera motion, "
        f"median error {found.median_error_px:.2f} px",
        f"  rotation {angle:.1f} deg (+- {found.rotation_std_deg:.2g})",
    ]
    if found.kind != "rotation":
        length = float(np.linalg.norm(pose[:3, 3]))
        unit = f"{length:.3g} m" if found.metric else "length unknown"
        center = -pose[:3, :3].T @ pose[:3, 3] / length
        right, down, ahead = center
        lines.append(
            f"  the second camera is at direction ({right:.2f} right, {down:.2f} down, "
            f"{ahead:.2f} ahead) of the first (+- {found.direction_std_deg:.2g} deg), {unit}"
        )
        lines.append(f"  parallax {found.parallax_deg:.1f} deg")
    if estimated_focal:
        f1, f2 = found.K1[0, 0], found.K2[0, 0]
        both = f"{f1:.0f} px" if f1 == f2 else f"{f1:.0f} and {f2:.0f} px"
        lines.append(f"  focal length {both} (estimated)")
    if found.caveat:
        lines.append(f"  note ({found.kind.replace('_', ' ')}): {found.caveat}")
    return lines
