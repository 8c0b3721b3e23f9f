"""The answer to "where was this photo taken?", and how to write many of them down."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from ...geometry.camera import Camera, rigid_inverse_array


@dataclass(frozen=True, eq=False)
class Localization:
    """Pose of one photo in the world of a map; falsy, with a `reason`, when there is none.

    Attributes:
        name: of the photo.
        cam_from_world: (4, 4) OpenCV axes, units of the map; None on failure.
        K: (3, 3) intrinsics in original pixels, given or estimated; None when unknown.
        size: (height, width) of the original photo.
        xy: (N, 2) pixels of the photo that were matched to known points.
        xyz: (N, 3) those points in the world.
        inliers: (N,) bool, the ones that agree with the pose.
        covariance: (6, 6) of a small motion (rotation vector in radians, translation in units of
            the map) of the camera, in its own axes; None on failure. Neighbouring matches err
            together, so that each part of the photo counts once; the map counts as exact.
        confidence: in [0, 1): n / (n + 16) for n cells of a 16 x 16 grid over the photo that hold
            an inlier; 0 on failure.
        scale: "metric" when the translation is in metres.
        references: names of the photos of the map it was compared with, most similar first.
        focal: where K comes from.
        reason: why there is no pose; empty on success.
    """

    name: str
    cam_from_world: np.ndarray | None = None
    K: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    xy: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    xyz: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    inliers: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    covariance: np.ndarray | None = None
    confidence: float = 0.0
    scale: Literal["metric", "relative"] = "relative"
    references: tuple[str, ...] = ()
    focal: Literal["given", "estimated", "unknown"] = "unknown"
    reason: str = ""

    def __bool__(self) -> bool:
        return self.cam_from_world is not None

    @property
    def success(self) -> bool:
        """Whether there is a pose."""
        return bool(self)

    @property
    def num_inliers(self) -> int:
        """How many matches agree with the pose."""
        return int(self.inliers.sum())

    @property
    def center(self) -> np.ndarray | None:
        """(3,) position of the camera in the world."""
        pose = self.cam_from_world
        return None if pose is None else rigid_inverse_array(pose)[:3, 3]

    @property
    def camera(self) -> Camera | None:
        """The pose with its intrinsics, in original pixels."""
        if self.cam_from_world is None or self.K is None:
            return None
        return Camera(self.K, self.cam_from_world, *self.size)

    @property
    def rotation_sigma_deg(self) -> float:
        """Standard deviation of the rotation, degrees; NaN on failure."""
        if self.covariance is None:
            return float("nan")
        return float(np.degrees(np.sqrt(np.trace(self.covariance[:3, :3]))))

    @property
    def position_sigma(self) -> float:
        """Standard deviation of the position, units of the map; NaN on failure."""
        if self.covariance is None:
            return float("nan")
        return float(np.sqrt(np.trace(self.covariance[3:, 3:])))

    def summary(self) -> str:
        """One line for the terminal."""
        center = self.center
        if center is None or self.K is None:
            return f"{self.name}: not localised: {self.reason}"
        unit = " m" if self.scale == "metric" else ""
        x, y, z = center.round(3) + 0.0  # no minus zeros
        return (
            f"{self.name}: at ({x:.3f}, {y:.3f}, {z:.3f}) +- {self.position_sigma:.2g}{unit}, "
            f"{self.rotation_sigma_deg:.2g} deg; {self.num_inliers} of {len(self.inliers)} matches "
            f"agree, confidence {self.confidence:.2f}, focal length {self.K[0, 0]:.0f} px "
            f"({self.focal})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the correspondences."""

        def listed(array: np.ndarray | None) -> list[Any] | None:
            return None if array is None else array.tolist()

        return {
            "name": self.name,
            "cam_from_world": listed(self.cam_from_world),
            "K": listed(self.K),
            "size": list(self.size),
            "inliers": self.num_inliers,
            "matches": len(self.inliers),
            "covariance": listed(self.covariance),
            "confidence": self.confidence,
            "scale": self.scale,
            "references": list(self.references),
            "focal": self.focal,
            "reason": self.reason,
        }


def write_poses(path: str | os.PathLike[str], localizations: Sequence[Localization]) -> Path:
    """Write many poses; the suffix picks the format, missing folders are made.

    .txt: lines `name qw qx qy qz tx ty tz` of cam_from_world, as the visual localisation benchmarks
    take them; a photo without a pose has no line. .json: everything but the correspondences, with
    the reason where there is no pose.

    Raises:
        ValueError: another suffix, or a name with a space in a .txt.
    """
    path = Path(path)
    check_pose_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".json":
        content = [one.to_dict() for one in localizations]
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path
    lines = []
    for one in localizations:
        if one.cam_from_world is None:
            continue
        if any(c.isspace() for c in one.name):
            raise ValueError(f"{one.name!r} has a space, which a .txt of poses cannot hold: .json")
        quaternion = Rotation.from_matrix(one.cam_from_world[:3, :3]).as_quat(
            canonical=True, scalar_first=True
        )
        numbers = [*quaternion, *one.cam_from_world[:3, 3]]
        lines.append(" ".join([one.name, *(f"{v:.12g}" for v in numbers)]) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def check_pose_file(path: Path) -> None:
    """Raise a ValueError unless `write_poses` knows the suffix."""
    if path.suffix.lower() not in (".txt", ".json"):
        raise ValueError(f"cannot write poses to {path}; use .txt or .json")


def read_poses(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name -> cam_from_world (4, 4) of a .txt as `write_poses` makes it (`#` starts a comment).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not `name qw qx qy qz tx ty tz`; it is named.
    """
    poses = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split("#")[0].split()
        if not parts:
            continue
        try:
            values = np.array([float(v) for v in parts[1:]])
        except ValueError:
            values = np.zeros(0)
        if values.size != 7 or not np.linalg.norm(values[:4]) > 0:
            raise ValueError(f"{path}:{number}: expected name qw qx qy qz tx ty tz, got {line!r}")
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat(values[:4], scalar_first=True).as_matrix()
        pose[:3, 3] = values[4:]
        poses[parts[0]] = pose
    return poses
