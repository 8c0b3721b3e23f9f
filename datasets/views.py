"""The view contract: a batch of scenes, each seen from several posed cameras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ViewBatch:
    """`B` scenes with `V` views each, every pixel with its exact geometry.

    Axes are OpenCV's (x right, y down, z forward); pixel centres are at half-integers.

    Attributes:
        images: RGB in [-1, 1], as a camera would store them.
        K: intrinsics in pixels at the size of `images`.
        world_from_cam: camera poses; lengths in metres (see `metric`).
        depth: z along the camera axis in metres; 0 where invalid.
        valid: True where depth and pointmap may be used (False in the sky).
        pointmap_world: the 3D point of each pixel in the world frame; zeros where invalid.
        surface_id: which surface each pixel shows; -1 for none. Ids are comparable between the
            views of one scene only.
        seeds: index of each scene in its data set; the scene can be made again from it.
        overlap: `overlap[b, i, j]`, the share of view i's valid pixels that view j sees, or None
            where it is unknown.
        kind: index of the scene family (see the data set that made it), or None.
        metric: scenes whose unit is the metre; None = all of them.
    """

    images: Float[Tensor, "b v 3 h w"]
    K: Float[Tensor, "b v 3 3"]
    world_from_cam: Float[Tensor, "b v 4 4"]
    depth: Float[Tensor, "b v h w"]
    valid: Bool[Tensor, "b v h w"]
    pointmap_world: Float[Tensor, "b v h w 3"]
    surface_id: Int[Tensor, "b v h w"]
    seeds: Int[Tensor, " b"]
    overlap: Float[Tensor, "b v v"] | None = None
    kind: Int[Tensor, " b"] | None = None
    metric: Bool[Tensor, " b"] | None = None

    @property
    def batch_size(self) -> int:
        """Number of scenes."""
        return self.images.shape[0]

    @property
    def num_views(self) -> int:
        """Number of views of each scene."""
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every image."""
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def cam_from_world(self) -> Float[Tensor, "b v 4 4"]:
        """The inverse poses."""
        rotation = self.world_from_cam[..., :3, :3].transpose(-1, -2)
        inverse = self.world_from_cam.clone()
        inverse[..., :3, :3] = rotation
        inverse[..., :3, 3] = -(rotation * self.world_from_cam[..., None, :3, 3]).sum(-1)
        return inverse

    def pointmap_in_view(self, view: int, frame: int) -> Float[Tensor, "b h w 3"]:
        """Return the pointmap of `view` in the camera frame of view `frame`; 0 where invalid."""
        pose = self.world_from_cam[:, frame]  # (B, 4, 4)
        offset = self.pointmap_world[:, view] - pose[:, None, None, :3, 3]
        points = torch.einsum("bji,bhwj->bhwi", pose[:, :3, :3], offset)
        return torch.where(self.valid[:, view, ..., None], points, 0.0)

    def select(self, rows: Int[Tensor, " n"]) -> ViewBatch:
        """Keep only some scenes."""
        return self._map(lambda value: value[rows])

    def to(self, device: torch.device | str) -> ViewBatch:
        """Move every tensor."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> ViewBatch:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        present = {name: value for name, value in fields.items() if value is not None}
        return dataclasses.replace(self, **{k: function(v) for k, v in present.items()})
