"""Reading sets: conversions of pixel conventions, truth files, and errors that name the file."""

import json

import numpy as np
import pytest

from weav3r.evaluation.readers import (
    K_from_integer_centres,
    K_to_integer_centres,
    homography_from_integer_centres,
    list_sets,
    read_scenes,
    read_set,
    sets_folder,
    xy_from_integer_centres,
    xy_to_integer_centres,
)


def test_conversions_between_pixel_conventions_cancel_and_agree():
    K = np.array([[300.0, 2, 159.5], [0, 310, 119.5], [0, 0, 1]])
    converted = K_from_integer_centres(K)
    assert converted[0, 2] == 160 and converted[1, 2] == 120
    assert np.array_equal(K_to_integer_centres(converted), K)
    assert K[0, 2] == 159.5  # the argument is not changed
    rays = np.random.default_rng(0).uniform(-1, 1, (9, 3)) + [0, 0, 2]
    pixels, moved = (rays @ matrix.T for matrix in (K, converted))
    old, new = pixels[:, :2] / pixels[:, 2:], moved[:, :2] / moved[:, 2:]
    assert xy_from_integer_centres(old) == pytest.approx(new)
    assert xy_to_integer_centres(new) == pytest.approx(old)
    H = np.array([[0.8, -0.3, 20], [0.3, 1, -7], [1e-3, -2e-4, 1]])
    mapped = np.c_[old, np.ones(9)] @ H.T
    target = xy_from_integer_centres(mapped[:, :2] / mapped[:, 2:])
    mapped = np.c_[new, np.ones(9)] @ homography_from_integer_centres(H).T
    assert mapped[:, :2] / mapped[:, 2:] == pytest.approx(target)


def test_read_set(eval_root):
    assert list_sets(eval_root) == ["strip", "wall"]
    data = read_set(eval_root, "wall")
    assert (data.name, data.units, list(data.images)) == (
        "wall",
        "metric",
        ["a.png", "b.png", "c.png"],
    )
    image = data.images["a.png"]
    assert image.size == (96, 128)
    assert image.K is not None and image.K[0, 2] == 64
    depth = image.depth()
    assert depth is not None and depth[0, 0] == 0 and depth[50, 50] == 4
    sparse = image.sparse_depth()
    assert sparse is not None and sparse.xy[0].tolist() == [5.5, 20.5]
    assert image.disparity() is None and data.images["c.png"].depth() is None
    good, negative = data.pairs
    assert good.overlap == 0.9 and not good.is_negative and negative.is_negative
    assert good.cam2_from_cam1 is not None and good.cam2_from_cam1[0, 3] == -0.4
    assert {path.name for path in data.data_files} == {
        "cameras.json", "pairs.json", "a.png", "b.png", "c.png", "a.npz", "b.npz",
    }  # fmt: skip
    assert read_set(eval_root, "strip").images["l.png"].disparity() is not None


def test_a_set_can_be_read_from_the_folder_of_sets_itself(eval_root):
    assert sets_folder(eval_root / "sets") == eval_root / "sets"
    assert read_set(eval_root / "sets", "wall").name == "wall"


def test_subset_keeps_the_pairs_between_its_images(eval_root):
    part = read_set(eval_root, "wall").subset(["a.png", "b.png"])
    assert list(part.images) == ["a.png", "b.png"] and len(part.pairs) == 1
    with pytest.raises(ValueError, match=r"no image \['z.png'\]"):
        part.subset(["z.png"])


def test_read_scenes(eval_root):
    first, second = read_scenes(eval_root)
    assert first.images == ("a.png", "b.png") and second.images is None
    assert [scene.name for scene in read_scenes(eval_root, split="dev")] == ["wall_2"]
    with pytest.raises(FileNotFoundError, match="scenes.json"):
        read_scenes(eval_root / "sets")


def test_a_missing_set_names_what_there_is(eval_root):
    with pytest.raises(FileNotFoundError, match=r"no set 'walls'.*\['strip', 'wall'\]"):
        read_set(eval_root, "walls")
    with pytest.raises(FileNotFoundError, match="no set '../wall'"):
        read_set(eval_root / "sets", "../wall")
    with pytest.raises(FileNotFoundError, match="no evaluation folder"):
        read_set(eval_root / "nowhere", "wall")


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_broken_files_are_named(eval_root):
    wall = eval_root / "sets" / "wall"
    (eval_root / "sets" / "strip" / "cameras.json").write_text("{")
    with pytest.raises(ValueError, match=r"strip.*not valid JSON"):
        read_set(eval_root, "strip")
    (eval_root / "sets" / "strip" / "cameras.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        read_set(eval_root, "strip")
    change(wall / "pairs.json", lambda c: c["pairs"][0].update(image2="q.png"))
    with pytest.raises(ValueError, match=r"a pair with 'q.png'"):
        read_set(eval_root, "wall")
    change(wall / "pairs.json", lambda c: c["pairs"][0].update(image2="b.png", T_2from1=[[1]]))
    with pytest.raises(ValueError, match=r"expected a finite \(4, 4\) matrix"):
        read_set(eval_root, "wall")
    change(wall / "cameras.json", lambda c: c["images"][0].update(depth="../../x.npz"))
    with pytest.raises(ValueError, match="leads outside the set's folder"):
        read_set(eval_root, "wall")
    change(wall / "cameras.json", lambda c: c["images"][0].update(name="gone.png"))
    with pytest.raises(FileNotFoundError, match="lists 'gone.png'"):
        read_set(eval_root, "wall")
    change(wall / "cameras.json", lambda c: c["images"][0].pop("name"))
    with pytest.raises(ValueError, match="lacks 'name'"):
        read_set(eval_root, "wall")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the kit leaves files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_readers_agree_with_evalkit(evalkit, eval_root):
    theirs, ours = (
        evalkit.data.EvalSet(str(eval_root / "sets"), "wall"),
        read_set(eval_root, "wall"),
    )
    for name, image in ours.images.items():
        assert image.size == theirs.size(name)[::-1]
        assert image.K is not None and np.allclose(K_to_integer_centres(image.K), theirs.K(name))
    xy, depth = theirs.sparse("a.png")
    sparse = ours.images["a.png"].sparse_depth()
    assert sparse is not None
    assert np.array_equal(xy_to_integer_centres(sparse.xy), xy)
    assert np.array_equal(sparse.depth, depth)
    dense = ours.images["a.png"].depth()
    assert dense is not None and np.array_equal(dense, theirs.depth("a.png"))
