"""An endless, seeded source of posed multi-view scenes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace

import torch
from torch import Tensor

from ..textures import TextureBank, default_bank
from ..views import ViewBatch
from .cameras import FAR_M, CameraOptions, CameraSet, pixel_directions, place_cameras
from .correspondence import overlap_matrix
from .facades import paint_facades
from .features import Extras, draw_extras, moved_scenes
from .layout import draw_layouts
from .materials import build_scene
from .panoramas import Panoramas, painted_panoramas
from .photometric import CameraPipeline, PhotometricOptions
from .reflections import surround
from .render import Kernel, cast, render
from .rng import SceneRandom
from .scene import RenderedViews, SceneBatch
from .switches import Feature, check_features
from .templates import expand
from .thin import add_thin

NUM_SOLIDS = 64
ATTEMPTS = 4

# two more samples around the pixel centre, balanced so that nothing moves
_SHIFTS_PX = ((0.32, 0.18), (-0.32, -0.18))
_WHITE = 4.0


class ProceduralScenes:
    """Draws scenes, photographs them and returns images with exact geometry.

    Scene i depends on `seed`, i and the options only: not on the batch it is drawn in. On a CPU it
    is the same to the last bit.

    Args:
        height, width: of the images in pixels.
        num_views: views of each scene, 1 to 8.
        seed: of the whole endless set.
        textures: tiles for the surfaces; None loads `default_bank()`.
        overlap: range of the share of a view that the view it was placed by sees too.
        device: where everything is computed.
        shadows: cast shadow rays.
        kernel: which renderer to use, see `render.render`.
        fov_deg: range of the field of view along the long side.
        relight_chance: share of scenes whose light changes between the views.
        photometric: how often blur, compression and the like happen.
        samples_per_pixel: 1, or 3 for smooth edges at three times the price of rendering.
        features: what scenes have beyond the plain ones, see `switches.FEATURES`; without any,
            scenes are what they always were.
        panoramas: for the sky and for mirrored light; None paints some.

    Raises:
        ValueError: if a size, the number of views or a range makes no sense.
    """

    def __init__(
        self,
        height: int,
        width: int,
        num_views: int = 2,
        seed: int = 0,
        textures: TextureBank | None = None,
        overlap: tuple[float, float] = (0.1, 0.95),
        device: torch.device | str = "cpu",
        shadows: bool = True,
        kernel: Kernel = "auto",
        fov_deg: tuple[float, float] = (35.0, 90.0),
        relight_chance: float = 0.25,
        photometric: PhotometricOptions | None = None,
        samples_per_pixel: int = 3,
        features: Iterable[Feature] = (),
        panoramas: Panoramas | None = None,
    ) -> None:
        if min(height, width) < 16:
            raise ValueError(f"height and width must be at least 16, got {height}x{width}")
        if not 1 <= num_views <= 8:
            raise ValueError(f"num_views must be between 1 and 8, got {num_views}")
        if not 0.0 <= overlap[0] <= overlap[1] <= 1.0:
            raise ValueError(f"overlap must be a range within 0..1, got {overlap}")
        if not 5.0 <= fov_deg[0] <= fov_deg[1] <= 140.0:
            raise ValueError(f"fov_deg must be a range within 5..140, got {fov_deg}")
        if samples_per_pixel not in (1, 3):
            raise ValueError(f"samples_per_pixel must be 1 or 3, got {samples_per_pixel}")
        self.height, self.width = height, width
        self.samples_per_pixel = samples_per_pixel
        self.num_views = num_views
        self.seed = seed
        self.device = torch.device(device)
        self.shadows = shadows
        self.kernel: Kernel = kernel
        self.relight_chance = relight_chance
        self.options = CameraOptions(overlap=overlap, fov_deg=fov_deg)
        self.features = check_features(features)
        bank = default_bank() if textures is None else textures
        self._tiles = bank.table.count
        table = bank.facade_table if "facades" in self.features else bank.table
        self._table = table.to(self.device)
        mirrors = self.features & {"panoramas", "glossy", "glass"}
        self._panoramas = (panoramas or painted_panoramas()).to(self.device) if mirrors else None
        self._pipeline = CameraPipeline(self.device, photometric)

    @torch.no_grad()
    def batch(self, start_index: int, batch_size: int) -> ViewBatch:
        """Make scenes start_index .. start_index + batch_size - 1."""
        indices = torch.arange(start_index, start_index + batch_size, device=self.device)
        rng = SceneRandom.from_indices(self.seed, indices)
        scene, cameras, extras = self._stage(rng)
        origin = cameras.world_from_cam[..., :3, 3]
        now = moved_scenes(scene, extras, origin) if "movers" in self.features else scene
        views = self._render(now, cameras, (0.0, 0.0))
        samples = [views]
        if self.samples_per_pixel == 3:
            samples += [self._render(now, cameras, shift) for shift in _SHIFTS_PX]
        radiance = self._light_of(samples, scene, cameras, extras)
        depth = views.depth
        valid = (views.surface_id >= 0) & (depth < FAR_M) & ~views.inside
        if "movers" in self.features:
            valid &= ~_shows(views.surface_id, extras.moving)
        depth = torch.where(valid, depth, 0.0)
        sensors = "sensor" in self.features
        result = ViewBatch(
            images=self._pipeline(rng.fork("photometric"), radiance, sensors),
            K=cameras.K,
            world_from_cam=cameras.world_from_cam,
            depth=depth,
            valid=valid,
            pointmap_world=_lift(depth, valid, cameras),
            surface_id=views.surface_id,
            seeds=indices,
            kind=scene.kind,
        )
        return replace(result, overlap=overlap_matrix(result))

    def _render(
        self, scene: SceneBatch, cameras: CameraSet, shift_px: tuple[float, float]
    ) -> RenderedViews:
        """Render B scenes of V views, or B V scenes of one view each."""
        K = cameras.K.clone()
        K[..., 0, 2] -= shift_px[0]
        K[..., 1, 2] -= shift_px[1]
        shape = scene.batch_size, scene.num_views
        views = render(
            scene,
            self._table,
            K.view(*shape, 3, 3),
            cameras.world_from_cam.view(*shape, 4, 4),
            self.height,
            self.width,
            shadows=self.shadows,
            kernel=self.kernel,
        )
        if shape == K.shape[:2]:
            return views
        values = {f.name: getattr(views, f.name) for f in fields(views)}
        return RenderedViews(**{n: v.view(*K.shape[:2], *v.shape[2:]) for n, v in values.items()})

    def _light_of(
        self, samples: list[RenderedViews], scene: SceneBatch, cameras: CameraSet, extras: Extras
    ) -> Tensor:
        """Mean radiance of the samples, with what panoramas, polish and glass do."""
        if self._panoramas is None:
            radiance = samples[0].rgb.clamp(max=_WHITE)
            for sample in samples[1:]:
                radiance = radiance + sample.rgb.clamp_(max=_WHITE)
            return radiance / len(samples) if len(samples) > 1 else radiance
        rotation, origin = cameras.world_from_cam[..., :3, :3], cameras.world_from_cam[..., :3, 3]
        rays = pixel_directions(cameras.K, rotation, self.height, self.width)
        rays = rays.view(*samples[0].depth.shape, 3)
        lit = surround(samples, scene, extras, self._panoramas, rays, origin, _WHITE)
        return lit.clamp_(max=_WHITE)

    def batches(self, batch_size: int, start_index: int = 0) -> Iterator[ViewBatch]:
        """Yield consecutive batches for ever."""
        while True:
            yield self.batch(start_index, batch_size)
            start_index += batch_size

    def stage(self, rng: SceneRandom) -> tuple[SceneBatch, CameraSet]:
        """Draw scenes and their cameras; scenes without good cameras are drawn anew.

        After `ATTEMPTS` attempts a scene is kept as it is, with `accepted` False.
        """
        return self._stage(rng)[:2]

    def _stage(self, rng: SceneRandom) -> tuple[SceneBatch, CameraSet, Extras]:
        scene, cameras, extras = self._attempt(rng, 0)
        for attempt in range(1, ATTEMPTS):
            rows = torch.nonzero(~cameras.accepted)[:, 0]
            if not rows.numel():
                break
            new_scene, new_cameras, new_extras = self._attempt(rng.select(rows), attempt)
            pick = torch.arange(rng.batch_size, device=self.device)
            pick[rows] = rng.batch_size + torch.arange(len(rows), device=self.device)
            scene = SceneBatch.cat([scene, new_scene]).select(pick)
            cameras = _cat_cameras(cameras, new_cameras, pick)
            extras = Extras.joined(extras, new_extras, pick)
        return scene, cameras, extras

    def _attempt(self, rng: SceneRandom, number: int) -> tuple[SceneBatch, CameraSet, Extras]:
        rng = rng.fork(f"attempt{number}")
        layout = draw_layouts(rng)
        solids = expand(rng.fork("parts"), layout.objects, NUM_SOLIDS)
        if "thin" in self.features:
            solids = add_thin(rng.fork("thin"), layout, solids)
        scene = build_scene(rng, layout, solids, self._tiles, self.num_views, self.relight_chance)
        if "facades" in self.features:
            scene = paint_facades(rng.fork("facades"), scene, layout, solids, self._tiles)
        count = 0 if self._panoramas is None else len(self._panoramas)
        extras = draw_extras(rng, self.features, layout, solids, self.num_views, count)
        cameras = place_cameras(
            rng.fork("cameras"),
            scene,
            layout,
            self.num_views,
            self.height,
            self.width,
            self.options,
            lambda s, o, d: cast(s, o, d, self.kernel),
        )
        return scene, cameras, extras


def _shows(surface_id: Tensor, solids: Tensor) -> Tensor:
    """Which pixels (B, V, H, W) show one of the marked solids (B, P)."""
    solid = surface_id.clamp(0, solids.shape[1] - 1).flatten(1).long()
    marked = torch.gather(solids, 1, solid).view(surface_id.shape)
    return marked & (surface_id >= 0) & (surface_id < solids.shape[1])


def _cat_cameras(a: CameraSet, b: CameraSet, pick: Tensor) -> CameraSet:
    return CameraSet(
        K=torch.cat([a.K, b.K])[pick],
        world_from_cam=torch.cat([a.world_from_cam, b.world_from_cam])[pick],
        accepted=torch.cat([a.accepted, b.accepted])[pick],
    )


def _lift(depth: Tensor, valid: Tensor, cameras: CameraSet) -> Tensor:
    """World points (B, V, H, W, 3) of the pixels; zeros where invalid."""
    height, width = depth.shape[-2:]
    K, pose = cameras.K[..., None, None], cameras.world_from_cam[..., None, None]
    v = torch.arange(height, device=depth.device)[:, None] + 0.5
    u = torch.arange(width, device=depth.device) + 0.5
    x = (u - K[:, :, 0, 2]) / K[:, :, 0, 0] * depth  # (B, V, H, W)
    y = (v - K[:, :, 1, 2]) / K[:, :, 1, 1] * depth
    points = depth.new_empty(*depth.shape, 3)
    for k in range(3):
        value = pose[:, :, k, 0] * x
        value += pose[:, :, k, 1] * y
        value += pose[:, :, k, 2] * depth
        value += pose[:, :, k, 3]
        points[..., k] = value.mul_(valid)
    return points
