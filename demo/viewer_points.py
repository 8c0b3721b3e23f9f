"""Which points the viewer shows: chosen by confidence and expected error, cut to a budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..inference.scene import PointCloud, Scene


@dataclass(frozen=True)
class ShownPoints:
    """Points of one component in a random order that never changes.

    A budget takes the first points of the order, so that a smaller one shows a part of what a
    larger one shows, spread evenly over the scene.

    Attributes:
        cloud: the points, shuffled.
        error: (N,) float32 expected relative error of the depths; None where the checkpoint is not
            calibrated.
    """

    cloud: PointCloud
    error: np.ndarray | None

    @classmethod
    def of(cls, scene: Scene, component: int = 0, max_points: int = 5_000_000) -> ShownPoints:
        """Gather all points of a component with a depth, at most about `max_points`.

        Args:
            scene: where they are.
            component: which one.
            max_points: bound of the memory; of more points an even share is drawn.
        """
        if max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {max_points}")
        members = scene.components[component]
        random = np.random.default_rng(0)
        total = sum(int(scene.views[i].valid.sum()) for i in members)
        masks: list[np.ndarray | None] = [None] * len(scene)
        if total > max_points:
            for i in members:
                masks[i] = random.random(scene.views[i].depth.shape) < max_points / total
        cloud = scene.point_cloud(0.0, component=component, masks=masks)
        order = random.permutation(len(cloud))
        shuffled = PointCloud(
            cloud.points[order], cloud.colors[order], cloud.confidence[order], cloud.view[order]
        )
        errors: list[np.ndarray] = []
        for i in members:
            error = scene.expected_error(i)
            if error is None:
                return cls(shuffled, None)
            mask = masks[i]
            valid = scene.valid(i, 0.0)
            errors.append(error[valid if mask is None else valid & mask])
        return cls(shuffled, np.concatenate(errors)[order])

    def __len__(self) -> int:
        """Count the points."""
        return len(self.cloud)

    def select(self, min_confidence: float = 0.0, max_error: float | None = None) -> np.ndarray:
        """(M,) int indices of the points that are sure enough, in the order.

        Args:
            min_confidence: points below are left out.
            max_error: points with a larger expected error are left out; None leaves out none.

        Raises:
            ValueError: `max_error` where no errors are known.
        """
        keep = self.cloud.confidence >= min_confidence
        if max_error is not None:
            if self.error is None:
                raise ValueError("max_error needs a scene of a calibrated checkpoint")
            keep &= self.error <= max_error
        return np.flatnonzero(keep)
