"""Conventions that a data set's numbers may follow by mistake, each with its name and its cure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from ...geometry.camera import rigid_inverse_array

Poses = Float64[np.ndarray, "n 4 4"]
DepthReading = Literal["z", "distance", "disparity", "upside-down", "mirrored"]

_MAX_SHIFT = 5


@dataclass(frozen=True)
class Convention:
    """One reading of the stored numbers.

    Attributes:
        code: short name of the fault if this reading is the right one.
        text: what the stored numbers are.
        advice: how to bring them to ours.
        cost: how far-fetched it is; simple explanations win over better ones by a little.
        pose: stored poses to `world_from_cam`.
        K_scale: factor of fx, fy, cx and cy; K for another size.
        focal_scale: factor of fx and fy alone.
        K_swapped: whether the axes of K are exchanged.
        depth: what a stored depth is.
        shift: view k has the pose of view k + shift.
    """

    code: str
    text: str
    advice: str
    cost: float = 1.0
    pose: Callable[[Poses], Poses] = lambda poses: poses
    K_scale: float = 1.0
    focal_scale: float = 1.0
    K_swapped: bool = False
    depth: DepthReading = "z"
    shift: int = 0


AS_STORED = Convention("as-stored", "as our conventions have it", "", 0.0)


def conventions(implied_K_scale: float = 1.0, with_depth: bool = True) -> Iterator[Convention]:
    """Every reading that is tried, the right one first.

    Args:
        implied_K_scale: a factor of K that its principal point suggests.
        with_depth: also other readings of the depth.
    """
    yield AS_STORED
    yield from _poses()
    usual = (0.25, 1 / 3, 0.5, 2.0, 3.0, 4.0)
    new = min(abs(np.log(implied_K_scale / factor)) for factor in (1.0, *usual)) > 0.1
    for factor in (*usual, *([implied_K_scale] if new else [])):
        yield Convention(
            "K-size",
            f"K is for a picture {1 / factor:.3g} times as large",
            f"multiply the first two rows of K by {factor:.3g}",
            K_scale=factor,
        )
    for factor in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.11, 1.25, 1.43, 1.67, 2.0, 2.5):
        yield Convention(
            "focal-length",
            f"the focal length is about {1 / factor:.2g} times too long",
            f"multiply fx and fy by about {factor:g}; calibrate, or look for a crop or a zoom",
            focal_scale=factor,
            cost=1.2,
        )
    yield Convention(
        "K-swapped",
        "x and y of K are exchanged",
        "exchange fx with fy and cx with cy",
        K_swapped=True,
    )
    for shift in range(1, _MAX_SHIFT + 1):
        for sign in (1, -1):
            frames = f"{shift} frame{'s' if shift > 1 else ''}"
            which = "earlier" if sign > 0 else "later"
            yield Convention(
                "time-shift",
                f"poses are {frames} {which} than the photos",
                f"give each photo the pose {frames} {'after' if sign > 0 else 'before'} its own; "
                "look for another clock, a dropped frame, or names sorted as text",
                shift=sign * shift,
                cost=1.0 + 0.2 * (shift - 1),
            )
    if with_depth:
        yield from _depths()


def _depths() -> Iterator[Convention]:
    yield Convention(
        "ray-distance",
        "depth is the distance from the camera, not z along its axis",
        "divide each depth by the length of ((u - cx) / fx, (v - cy) / fy, 1)",
        depth="distance",
    )
    yield Convention(
        "disparity",
        "depth is stored as its inverse",
        "store the inverse, in the unit of the poses",
        depth="disparity",
    )
    flips: tuple[tuple[DepthReading, str], ...] = (("upside-down", "rows"), ("mirrored", "columns"))
    for depth, axis in flips:
        yield Convention(
            "flipped-depth",
            f"depth maps have their {axis} in reverse order",
            f"reverse the {axis} of the depth maps (PFM files count rows from the bottom)",
            depth=depth,
        )


_BASES: tuple[tuple[str, str, str, float, Callable[[Poses], Poses]], ...] = (
    ("", "", "", 0.0, lambda p: p),
    (
        "inverse-poses",
        "poses are cam_from_world (world-to-camera)",
        "invert them",
        1.0,
        lambda p: _inverse(p),
    ),
    (
        "mixed-poses",
        "poses hold the rotation of cam_from_world and the camera's centre",
        "transpose the rotation only",
        1.5,
        lambda p: _with(p, rotation=p[:, :3, :3].transpose(0, 2, 1)),
    ),
    (
        "mixed-poses",
        "poses hold the rotation of world_from_cam and the translation of cam_from_world",
        "replace the translation t by -R t",
        1.5,
        lambda p: _with(p, centre=-(p[:, :3, :3] @ p[:, :3, 3:])[..., 0]),
    ),
)

_KNOWN_AXES = {
    ("x", "-y", "-z"): ("opengl-axes", "OpenGL axes (x right, y up, z backward)"),
    ("-x", "-y", "z"): ("pytorch3d-axes", "PyTorch3D axes (x left, y up, z forward)"),
    ("x", "-y", "z"): ("left-handed-axes", "left-handed axes with y up (Unity, DirectX)"),
    ("z", "x", "y"): ("ned-axes", "vehicle axes (x forward, y right, z down)"),
    ("z", "-x", "-y"): ("vehicle-axes", "vehicle axes (x forward, y left, z up)"),
    ("y", "x", "z"): ("swapped-axes", "x and y exchanged"),
    ("x", "z", "y"): ("swapped-axes", "y and z exchanged"),
    ("z", "y", "x"): ("swapped-axes", "x and z exchanged"),
}


def _poses() -> Iterator[Convention]:
    """Every base with every choice of camera axes, 192 but the right one.

    A camera frame whose axes are (a, b, c) of ours has poses P A^T; its columns are put back.
    """
    for (code, text, advice, cost, base), axes in itertools.product(_BASES, _axes()):
        names = _names(axes)
        plain = names == ("x", "y", "z")
        if plain and not code:
            continue
        known = _KNOWN_AXES.get(names)
        if plain:
            found = Convention(code, text, advice, cost)
        else:
            axes_code, axes_text = known or ("camera-axes", "other axes of the camera")
            words = f"the camera frame has {axes_text}: its axes are ({', '.join(names)}) of ours"
            cure = f"multiply the poses by {_matrix_words(axes)} from the right"
            extra = 1.0 if known else 1.6
            found = Convention(
                axes_code if not code else f"{code}+{axes_code}",
                f"{text}; {words}" if text else words,
                f"{advice}; {cure}" if advice else cure,
                cost + extra,
            )
        yield replace(found, pose=lambda p, base=base, axes=axes: base(p) @ axes)


def _axes() -> Iterator[Float64[np.ndarray, "4 4"]]:
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((4, 4))
            matrix[range(3), order] = signs
            matrix[3, 3] = 1
            yield matrix


def _matrix_words(axes: Float64[np.ndarray, "4 4"]) -> str:
    rows = axes[:3, :3].astype(int)
    if np.count_nonzero(rows - np.diag(np.diag(rows))) == 0:
        return f"diag({', '.join(map(str, np.diag(rows)))}, 1)"
    return f"the matrix with the 3x3 part {rows.tolist()}"


def _names(axes: Float64[np.ndarray, "4 4"]) -> tuple[str, str, str]:
    """Each axis of the stored frame, in ours."""
    names = []
    for row in axes[:3, :3]:
        k = int(np.abs(row).argmax())
        names.append(("-" if row[k] < 0 else "") + "xyz"[k])
    return names[0], names[1], names[2]


def _inverse(poses: Poses) -> Poses:
    finite = np.isfinite(poses).all((1, 2), keepdims=True)
    safe = np.where(finite, poses, np.eye(4))
    rigid = np.abs(np.linalg.det(safe[:, :3, :3])) > 1e-9
    inverse = rigid_inverse_array(safe)
    return np.where(finite & rigid[:, None, None], inverse, np.nan)


def _with(
    poses: Poses,
    rotation: Float64[np.ndarray, "n 3 3"] | None = None,
    centre: Float64[np.ndarray, "n 3"] | None = None,
) -> Poses:
    changed = poses.copy()
    if rotation is not None:
        changed[:, :3, :3] = rotation
    if centre is not None:
        changed[:, :3, 3] = centre
    return changed


def scale_words(scale: float) -> tuple[str, str, str]:
    """Code, text and advice for depth that fits the poses only times a factor."""
    named = {
        1e-3: ("depth-in-mm", "depth is in millimetres, the poses are in metres"),
        1e-2: ("depth-scale", "depth is in centimetres, the poses are in metres"),
        1e3: ("poses-in-mm", "poses are in millimetres, the depth is in metres"),
        2.0: ("half-scale", "depth has half the scale of the poses"),
        0.5: ("half-scale", "poses have half the scale of the depth"),
    }
    for value, (code, text) in named.items():
        if abs(scale / value - 1) < 0.04:
            advice = f"multiply the depth by {value:g}, or divide the translations by it"
            return code, text, advice
    advice = f"multiply the depth by {scale:.4g}, or divide the translations by it"
    return "depth-scale", f"depth fits the poses only times {scale:.4g}", advice
