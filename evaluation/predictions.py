"""Write matches, poses and scenes as a folder of plain files that other metrics kits can score.

    FOLDER/predictions.json   {"seconds": s, "images": {name: {...}}, "pairs": [{...}]}
    FOLDER/matches/*.npz      xy1, xy2 (N, 2), confidence (N,)
    FOLDER/depth/*.npz        depth (H, W), z in the image's own view, nan = no estimate
    FOLDER/points/*.npz       points (H, W, 3) in one frame for all images, mask (H, W)

The files count pixel centres at integers, as the sets do; the library counts them at half-integers
and the conversion happens here. Depth and points cover the whole original image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..inference.scene import Scene
from .match_metrics import MatchesLike
from .readers import K_to_integer_centres, xy_to_integer_centres


class PredictionWriter:
    """Collects what was predicted for one set or scene; `close` writes predictions.json."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._images: dict[str, dict[str, Any]] = {}
        self._pairs: list[dict[str, Any]] = []

    def add_pair(
        self, image1: str, image2: str, matches: MatchesLike, cam2_from_cam1: np.ndarray | None
    ) -> None:
        """Add the matches of a pair and its relative pose.

        Args:
            image1: name of the first image in its set.
            image2: name of the second.
            matches: in original pixels, centres at half-integers.
            cam2_from_cam1: (4, 4) with a translation of any length, or None.
        """
        name = f"matches/{len(self._pairs):04d}.npz"
        arrays = {
            "xy1": xy_to_integer_centres(matches.xy1).reshape(-1, 2),
            "xy2": xy_to_integer_centres(matches.xy2).reshape(-1, 2),
        }
        if matches.confidence is not None:
            arrays["conf"] = np.asarray(matches.confidence)
        self._save(name, arrays)
        pose = None if cam2_from_cam1 is None else np.asarray(cam2_from_cam1).tolist()
        pair = {"image1": image1, "image2": image2, "T_2from1": pose, "matches": name}
        self._pairs.append(pair)

    def add_image(
        self,
        name: str,
        *,
        cam_from_world: np.ndarray | None,
        K: np.ndarray | None,
        depth: np.ndarray | None = None,
        points: np.ndarray | None = None,
    ) -> None:
        """Add what is known of one image.

        Args:
            name: of the image in its set.
            cam_from_world: (4, 4) in the frame of the other images, or None.
            K: (3, 3) in original pixels, centres at half-integers, or None.
            depth: (H, W) at the original size, nan where unknown, or None.
            points: (H, W, 3) at the original size, nan where unknown, or None.
        """
        entry: dict[str, Any] = {
            "cam_from_world": None if cam_from_world is None else cam_from_world.tolist(),
            "K": None if K is None else K_to_integer_centres(K).tolist(),
        }
        stem = f"{len(self._images):04d}.npz"
        if depth is not None:
            entry["depth"] = f"depth/{stem}"
            self._save(entry["depth"], {"depth": np.asarray(depth, np.float32)})
        if points is not None:
            entry["points"] = f"points/{stem}"
            points = np.asarray(points, np.float32)
            mask = np.asarray(np.isfinite(points).all(axis=-1))
            self._save(entry["points"], {"points": points, "mask": mask})
        self._images[name] = entry

    def close(self, seconds: float | None = None) -> Path:
        """Write predictions.json and return its path."""
        path = self.folder / "predictions.json"
        content = {"seconds": seconds, "images": self._images, "pairs": self._pairs}
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return path

    def _save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def write_scene_predictions(
    folder: Path | str, scene: Scene, *, seconds: float | None = None, points: bool = False
) -> Path:
    """Write the cameras and depth of a scene.

    Poses are those of the largest component: others live in frames of their own. Names are those of
    the image files.

    Args:
        folder: made if it is missing.
        scene: reconstructed from the images of a set.
        seconds: how long that took.
        points: write the pointmaps too (they follow from depth, K and pose).

    Returns:
        Path of predictions.json.
    """
    writer = PredictionWriter(folder)
    placed = set(scene.components[0]) if scene.components else set()
    for index, view in enumerate(scene.views):
        camera = view.camera
        writer.add_image(
            view.path.name if view.path is not None else view.name,
            cam_from_world=camera.cam_from_world if camera and index in placed else None,
            K=camera.K if camera else None,
            depth=scene.depth(index, original=True) if view.valid.any() else None,
            points=scene.points(index, original=True) if points and index in placed else None,
        )
    return writer.close(seconds)
