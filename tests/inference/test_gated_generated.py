"""The gated search on generated scenes, with the bundled network and with true pointmaps."""

from __future__ import annotations

import torch
from torch import Tensor

import weav3r
from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.geometry.pointmap import unproject_depth
from weav3r.geometry.transforms import transform_points
from weav3r.inference.matching.gating import gate_from_pointmaps
from weav3r.inference.matching.reciprocal import reciprocal_matches


def pairs_of(matches) -> set[tuple[int, int]]:
    return set(zip(matches.index1.tolist(), matches.index2.tolist(), strict=True))


def test_the_gate_keeps_the_matches_of_generated_scenes() -> None:
    batch = ProceduralScenes(128, 160, 2, seed=5, overlap=(0.4, 0.9)).batch(0, 1)
    model = weav3r.load_model("weav3r-small")
    with torch.inference_mode():
        encoded = [model.encode(batch.images[:, view]) for view in (0, 1)]
        found = model.decode(*encoded)
    maps: list[tuple[Tensor, Tensor]] = [(found.view1.pointmap[0], found.view2.pointmap[0])]
    pose = batch.world_from_cam[0]
    depth = torch.where(batch.valid, batch.depth, torch.nan)[0]
    true = [
        transform_points(
            torch.linalg.inv(pose[0]) @ pose[view], unproject_depth(d, batch.K[0][view])
        )
        for view, d in enumerate(depth)
    ]
    noise = 1 + 0.02 * torch.randn(128, 160, 1, generator=torch.Generator().manual_seed(0))
    maps.append((true[0] * noise, true[1] * noise))
    assert found.view1.descriptors is not None and found.view2.descriptors is not None
    first, second = found.view1.descriptors[0], found.view2.descriptors[0]
    everywhere = pairs_of(reciprocal_matches(first, second, 4))
    assert len(everywhere) > 300
    for points in maps:
        gated = pairs_of(reciprocal_matches(first, second, 4, gate=gate_from_pointmaps(*points)))
        assert len(gated & everywhere) >= 0.98 * max(len(everywhere), len(gated))
