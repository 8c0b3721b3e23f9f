"""Map-free evaluation: the runner's book-keeping with poses that are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import weav3r
from weav3r.evaluation import map_free
from weav3r.evaluation.map_free import MapFreeSettings, evaluate_map_free
from weav3r.evaluation.network import NetworkMatcher
from weav3r.evaluation.readers import read_set
from weav3r.inference.localization.result import Localization

if TYPE_CHECKING:
    from ..conftest import Run


@pytest.fixture(scope="module")
def matcher() -> NetworkMatcher:
    return NetworkMatcher(weav3r.load_model("weav3r-small", device="cpu"), size=64)


def test_a_true_pose_scores_full_and_negatives_are_left_out(
    eval_root: Path, matcher: NetworkMatcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = read_set(eval_root, "wall")
    truth = data.pairs[0].cam2_from_cam1

    def answer(query, reference, model, K, K_reference, matching):
        assert (query.name, reference.name) == ("b.png", "a.png")
        assert K is not None and K_reference is not None
        return Localization("b.png", truth, K, query.ledger.original_size, confidence=0.7)

    monkeypatch.setattr(map_free, "localize_against_photo", answer)
    report = evaluate_map_free([data], {"true": matcher})
    (record,) = report.records
    assert record.vcre_px == pytest.approx(0, abs=1e-9) and record.confidence == 0.7
    (group,) = report.overall
    assert (group.pose_precision, group.pose_auc, group.vcre_precision) == (1, 1, 1)
    paths = report.write(tmp_path / "out")
    assert json.loads(paths[0].read_text())["overall"][0]["queries"] == 1
    assert "not metres by its own account" in paths[1].read_text()
    with open(paths[2], newline="") as file:
        assert len(list(csv.DictReader(file))) == 1

    def fail(*arguments):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(map_free, "localize_against_photo", fail)
    report = evaluate_map_free([data], {"bad": matcher})
    assert report.records[0].reason == "RuntimeError: out of luck"
    assert report.overall[0].failed == 1 and report.overall[0].vcre_auc == 0


def test_the_network_is_asked(eval_root: Path, matcher: NetworkMatcher) -> None:
    settings = MapFreeSettings(known_intrinsics=False)
    report = evaluate_map_free([read_set(eval_root, "wall")], {"small": matcher}, settings)
    (record,) = report.records
    assert bool(record.reason) == np.isinf(record.vcre_px)


def test_command(eval_root: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("evaluate", eval_root, "--tasks", "mapfree", "--size", 64, "--model")
    outcome = run(*arguments, "weav3r-small", "-o", tmp_path / "a")
    assert outcome.status == 0, outcome.err
    assert "| wall | weav3r-small | 1 |" in outcome.out and "strip" not in outcome.out
    again = run(*arguments, "weav3r-small", "-o", tmp_path / "b", "--against", tmp_path / "a")
    assert again.status == 0 and "| earlier | weav3r-small |" in again.out


def test_only_metric_sets_with_pairs(eval_root: Path, matcher: NetworkMatcher) -> None:
    with pytest.raises(ValueError, match=r"sets \['strip'\] are not"):
        evaluate_map_free([read_set(eval_root, "strip")], {"small": matcher})
    with pytest.raises(ValueError, match="nothing to localise"):
        evaluate_map_free([read_set(eval_root, "wall")], {})
