"""The photometric model: what goes in plausible comes out plausible, alike in every batch."""

import pytest
import torch

from weav3r.datasets.procedural import photometric
from weav3r.datasets.procedural.photometric import CameraPipeline, PhotometricOptions
from weav3r.datasets.procedural.rng import SceneRandom


def radiance(B: int, H: int = 33, W: int = 47) -> torch.Tensor:
    rng = SceneRandom.from_indices(9, torch.arange(B))
    return rng.uniform(0.0, 1.5, 2, H, W, 3)


def rng(*indices: int) -> SceneRandom:
    return SceneRandom.from_indices(0, torch.tensor(indices))


def test_an_image_does_not_depend_on_its_batch() -> None:
    pipeline = CameraPipeline()
    linear = radiance(6)
    whole = pipeline(rng(0, 1, 2, 3, 4, 5), linear)
    assert torch.equal(pipeline(rng(4), linear[4:5]), whole[4:5])


def test_images_have_256_levels_and_a_sane_exposure() -> None:
    images = CameraPipeline()(rng(*range(12)), 3.0 * radiance(12))
    assert images.min() >= -1.0 and images.max() <= 1.0
    level = (images + 1.0) * 127.5
    assert (level - level.round()).abs().max() < 1e-3
    assert -0.7 < images.mean((2, 3, 4)).min() and images.mean((2, 3, 4)).max() < 0.7


def test_black_stays_finite() -> None:
    images = CameraPipeline()(rng(0), torch.zeros(1, 2, 16, 16, 3))
    assert torch.isfinite(images).all()


def test_grey_scenes_are_grey() -> None:
    pipeline = CameraPipeline(options=PhotometricOptions(grey=1.0))
    images = pipeline(rng(0, 1), radiance(2))
    assert torch.equal(images[:, :, 0], images[:, :, 1])
    assert torch.equal(images[:, :, 0], images[:, :, 2])


@pytest.mark.parametrize("name", ["_blur", "_motion_blur", "_sharpen", "_lower_resolution"])
def test_filters_keep_a_flat_image(name: str) -> None:
    x = torch.full((2, 3, 17, 19), 0.3)
    one = torch.ones(2)
    arguments = {"_blur": (one,), "_motion_blur": (one, one), "_sharpen": (one,)}.get(name, ())
    assert torch.allclose(getattr(photometric, name)(x, *arguments), x, atol=1e-6)


def test_blurs_smooth_and_sharpening_undoes() -> None:
    x = SceneRandom.from_indices(0, torch.arange(2)).uniform(0.0, 1.0, 3, 24, 24)
    one = torch.ones(2)
    for soft in (photometric._blur(x, one), photometric._motion_blur(x, one, 2 * one)):
        assert soft.std() < 0.8 * x.std()
        assert abs(soft.mean() - x.mean()) < 0.02
    assert photometric._sharpen(x, one).std() > x.std()


def test_fine_jpeg_changes_little_and_coarse_jpeg_more() -> None:
    pipeline = CameraPipeline()
    u = torch.linspace(0, 6, 48)
    x = (0.5 + 0.3 * torch.sin(u) * torch.cos(u[:40, None])).expand(2, 3, 40, 48).contiguous()
    errors = [(pipeline._jpeg(x, torch.full((2,), s)) - x).abs().mean() for s in (1e-3, 0.1, 2.0)]
    assert errors[0] < 1e-3 < errors[2] and errors[1] < errors[2]
