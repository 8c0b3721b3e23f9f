"""How long a reconstruction will take."""

import pytest

from weav3r.inference.progress import RemainingTime


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_share_grows_and_the_time_left_follows_the_pace() -> None:
    clock = Clock()
    left = RemainingTime(now=clock)
    assert (left.share, left.remaining_s) == (0.0, None)
    steps = [("photos", 6), ("encode", 6), ("decode and match", 15), ("cameras", 1), ("depth", 6)]
    shares = []
    for stage, total in steps:
        for done in range(total + 1):
            left.update(stage, done, total)
            shares.append(left.share)
            clock.now += 1
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert left.remaining_s is None


def test_the_time_counts_down_between_reports() -> None:
    clock = Clock()
    left = RemainingTime(now=clock)
    left.update("encode", 0, 2)
    clock.now = 10.0
    left.update("encode", 2, 2)
    first = left.remaining_s
    assert first is not None and first == pytest.approx(10 * (1 - left.share) / left.share)
    clock.now = 15.0
    assert left.remaining_s == pytest.approx(first - 5)
    clock.now = 1e6
    assert left.remaining_s is None  # longer than thought


def test_fewer_photos_than_thought_and_unknown_stages_do_no_harm() -> None:
    left = RemainingTime(now=Clock())
    left.update("photos", 0, 20)
    left.update("frames", 3, 900)
    left.update("encode", 1, 2)
    left.update("refine", 0, 1)
    left.update("depth", 0, 0)
    assert 0 < left.share < 1 and left.stage == "depth"
