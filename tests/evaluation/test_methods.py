"""Methods by name: SIFT, checkpoints and other people's functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weav3r
from weav3r.evaluation.methods import is_checkpoint, make_method, split_matcher
from weav3r.evaluation.network import NetworkMatcher
from weav3r.evaluation.provenance import describe_method
from weav3r.evaluation.sift import SiftMethod
from weav3r.inference.matching.methods import ReciprocalOptions

FUNCTION = """
from weav3r.evaluation.match_metrics import PairMatches
import numpy as np

def corners(path1, path2):
    return PairMatches(np.zeros((1, 2)), np.ones((1, 2)))

corners.description = {"corners": 1}
number = 3
"""


def test_sift_by_name() -> None:
    plain, small = make_method("sift"), make_method("sift@64")
    assert isinstance(plain, SiftMethod) and plain.options.max_size is None
    assert isinstance(small, SiftMethod) and small.options.max_size == 64
    with pytest.raises(ValueError, match="method sift@big: expected a size in pixels"):
        make_method("sift@big")


def test_any_function_of_two_paths(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTION)
    method = make_method(f"{file}:corners")
    assert len(method(Path("a"), Path("b")).xy1) == 1
    assert describe_method(method)["corners"] == 1
    assert describe_method(method)["function"] == f"{file}:corners"
    assert not is_checkpoint(f"{file}:corners") and not is_checkpoint("sift@3")
    assert is_checkpoint("weav3r-small") and is_checkpoint("folder/model.safetensors")
    with pytest.raises(ValueError, match="has no function number"):
        make_method(f"{file}:number")
    with pytest.raises(FileNotFoundError, match="no file nowhere.py"):
        make_method("nowhere.py:corners")
    with pytest.raises(ValueError, match="give an installed module or file.py:function"):
        make_method("no_such_module:corners")
    assert callable(make_method("os.path:join"))


def test_a_checkpoint_with_a_matcher(eval_root: Path, tmp_path: Path) -> None:
    images = eval_root / "sets" / "wall" / "images"
    method = make_method("weav3r-small:reciprocal", device="cpu", size=96)
    assert isinstance(method, NetworkMatcher)
    assert method.options == ReciprocalOptions() and method.description["both_orders"] is True
    found = method(images / "a.png", images / "b.png")
    theirs = weav3r.match(
        images / "a.png", images / "b.png", method.model, size=96, matcher="reciprocal"
    )
    np.testing.assert_allclose(found.xy1, theirs.xy1, atol=1e-4)
    assert is_checkpoint("weav3r-small:gated") and is_checkpoint("folder/model.pth:anchors")
    assert split_matcher("weav3r-small:gated") == ("weav3r-small", "gated")
    assert split_matcher("weav3r-small") == ("weav3r-small", None)
    mine = tmp_path / "mine.py"
    mine.write_text(FUNCTION.replace("corners", "gated"))
    assert not is_checkpoint(f"{mine}:gated")
    assert len(make_method(f"{mine}:gated")(Path("a"), Path("b")).xy1) == 1
    with pytest.raises(ValueError, match="give an installed module"):
        make_method("weav3r-small:nearest")


def test_a_checkpoint_encodes_once_and_matches_as_the_library_does(eval_root: Path) -> None:
    images = eval_root / "sets" / "wall" / "images"
    model = weav3r.load_model("weav3r-small", device="cpu")
    matcher = NetworkMatcher(model, size=96, cached_images=1)
    ours = matcher(images / "a.png", images / "b.png")
    theirs = weav3r.match(images / "a.png", images / "b.png", model, size=96)
    assert len(ours.xy1) == len(theirs.xy1)
    one, two = (found.xy1[np.lexsort(found.xy1.T)] for found in (ours, theirs))
    np.testing.assert_allclose(one, two, atol=1e-4)
    one, two = (found.xy2[np.lexsort(found.xy1.T)] for found in (ours, theirs))
    np.testing.assert_allclose(one, two, atol=0.02)  # batched differently: near ties change places
    assert matcher.rank([images / "b.png"], [images / "a.png", images / "b.png"], 1) == [[1]]
    assert len(matcher._cache) == 1
    assert matcher.description["size"] == 96
