"""Counter-based random streams: reproducible, independent of the batch, well distributed."""

import pytest
import torch

from weav3r.datasets.procedural.rng import SceneRandom, hash32


def streams(*indices: int, seed: int = 0) -> SceneRandom:
    return SceneRandom.from_indices(seed, torch.tensor(indices))


def test_a_scene_has_the_same_numbers_in_every_batch() -> None:
    many, one = streams(*range(100)), streams(41)
    for _ in range(3):  # past the end of the first buffer
        assert torch.equal(many.uniform(0.0, 1.0, 300)[41], one.uniform(0.0, 1.0, 300)[0])
    assert torch.equal(many.fork("a").normal(5)[41], one.fork("a").normal(5)[0])
    assert torch.equal(
        many.select(torch.tensor([41])).uniform(0.0, 1.0, 7), streams(41).uniform(0.0, 1.0, 7)
    )


def test_numbers_do_not_depend_on_how_they_are_asked_for() -> None:
    a, b = streams(7), streams(7)
    parts = torch.cat([a.uniform(0.0, 1.0, n) for n in (1, 600, 3, 10)], 1)
    assert torch.equal(parts, b.uniform(0.0, 1.0, 614))


def test_seeds_indices_and_forks_give_different_streams() -> None:
    draws = [
        streams(1),
        streams(2),
        streams(1, seed=1),
        streams(1, seed=1 << 32),
        streams(1 << 33),
        streams(1).fork("a"),
        streams(1).fork("b"),
    ]
    values = torch.cat([d.uniform(-1.0, 1.0, 4000) for d in draws])
    correlation = torch.corrcoef(values) - torch.eye(len(draws))
    assert correlation.abs().max() < 0.08  # five standard deviations of 1 / sqrt(4000)


def test_distributions() -> None:
    rng = streams(*range(50))
    uniform = rng.uniform(2.0, 4.0, 2000)
    assert uniform.min() >= 2.0 and uniform.max() < 4.0
    assert abs(uniform.mean() - 3.0) < 0.01
    for normal in (rng.normal(2000), rng.rough_normal(2000)):
        assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1.0) < 0.02
    integers = rng.integers(5, 2000)
    assert torch.equal(integers.unique(), torch.arange(5))
    assert abs(rng.chance(0.3, 2000).float().mean() - 0.3) < 0.01
    shares = torch.bincount(rng.choice([1.0, 0.0, 3.0], 2000).flatten(), minlength=3) / 1e5
    assert torch.allclose(shares, torch.tensor([0.25, 0.0, 0.75]), atol=0.01)
    log = rng.log_uniform(0.1, 10.0, 2000).log10()
    assert abs(log.mean()) < 0.02 and log.min() >= -1.0001 and log.max() <= 1.0001


@pytest.mark.parametrize("x", [0, 1, 0xFFFFFFFF, 0x80000000])
def test_hash_stays_in_32_bits(x: int) -> None:
    value = int(hash32(torch.tensor(x)))
    assert 0 <= value < 2**32


def test_neighbouring_words_differ_in_half_their_bits() -> None:
    x = torch.arange(20000)
    flips = hash32(x) ^ hash32(x ^ 1)
    ones = torch.stack([(flips >> bit) & 1 for bit in range(32)]).sum(0).float()
    assert abs(ones.mean() - 16.0) < 0.1
