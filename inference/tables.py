"""Numbers about the cameras of a scene, one row a photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scene import Scene


@dataclass(frozen=True)
class CameraRow:
    """What a table says of one photo.

    Attributes:
        index: of the photo.
        name: of the photo.
        group: index of its component; None where the photo has no camera.
        alone: no other photo is in its component.
        width, height: of the upright original, pixels.
        focal_px: focal length in pixels of the original; None without a camera, as all below.
        fov_deg: horizontal field of view, degrees.
        position: (x, y, z) of the camera in the frame and unit of its component.
        with_depth: share of the pixels with a depth that is sure enough for the scene.
        error: median expected relative error of those; None where the checkpoint has no
            calibration.
    """

    index: int
    name: str
    group: int | None
    alone: bool
    width: int
    height: int
    focal_px: float | None = None
    fov_deg: float | None = None
    position: tuple[float, float, float] | None = None
    with_depth: float | None = None
    error: float | None = None

    @property
    def placed(self) -> bool:
        """Whether the photo was joined with another one."""
        return self.group is not None and not self.alone


def camera_rows(scene: Scene) -> list[CameraRow]:
    """Tell where each photo of a scene was taken, and with what lens."""
    rows = []
    for index, view in enumerate(scene.views):
        group = next((k for k, g in enumerate(scene.components) if index in g), None)
        alone = group is not None and len(scene.components[group]) == 1 and len(scene) > 1
        height, width = view.ledger.original_size
        row = CameraRow(index, view.name, group, alone, int(width), int(height))
        camera = view.camera
        if camera is not None:
            valid = scene.valid(index)
            error = scene.expected_error(index)
            x, y, z = map(float, camera.center)
            row = CameraRow(
                *(index, view.name, group, alone, int(width), int(height)),
                focal_px=float(camera.K[0, 0]),
                fov_deg=float(camera.fov_deg[1]),
                position=(x, y, z),
                with_depth=float(valid.mean()),
                error=None if error is None or not valid.any() else float(np.median(error[valid])),
            )
        rows.append(row)
    return rows
