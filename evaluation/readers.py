"""Read evaluation sets in the plain layout: one folder a set, JSON and npz files.

    NAME/cameras.json   {set, units, images: [{name, width, height, K, cam_from_world, ...}]}
    NAME/pairs.json     {pairs: [{image1, image2, T_2from1, K1, K2, overlap?, band?, H_2from1?}]}
    NAME/images/  NAME/depth/*.npz  NAME/sparse_depth/*.npz  NAME/disparity/*.npz

The files count pixel centres at integers. Everything that this module returns counts them at
half-integers, as the rest of the library does; the conversions are the functions whose names end in
`_integer_centres`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NEGATIVE_BAND = "negative"


@dataclass(frozen=True)
class SparseDepth:
    """Triangulated points of one image.

    Attributes:
        xy: (N, 2) pixels, centres at half-integers.
        depth: (N,) z along the camera's axis in the set's units.
    """

    xy: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class ImageTruth:
    """What a set knows about one image.

    Attributes:
        name: file name, unique in the set.
        path: the image file.
        size: (height, width) of the stored image.
        K: (3, 3) true intrinsics, or None.
        cam_from_world: (4, 4) true pose, or None.
        depth_path: npz with `depth` and `valid`, or None.
        sparse_depth_path: npz with `uv` and `depth`, or None.
        disparity_path: npz with `disparity` and `valid`, or None.
    """

    name: str
    path: Path
    size: tuple[int, int]
    K: np.ndarray | None
    cam_from_world: np.ndarray | None
    depth_path: Path | None
    sparse_depth_path: Path | None
    disparity_path: Path | None

    def depth(self) -> np.ndarray | None:
        """Dense true z (H, W) float32, 0 where unknown; None if the set has none."""
        return _masked(self.depth_path, "depth")

    def disparity(self) -> np.ndarray | None:
        """True disparity (H, W) in pixels, 0 where unknown; None if the set has none."""
        return _masked(self.disparity_path, "disparity")

    def sparse_depth(self) -> SparseDepth | None:
        """Triangulated depth; None if the set has none."""
        if self.sparse_depth_path is None:
            return None
        with np.load(self.sparse_depth_path) as arrays:
            return SparseDepth(
                xy=xy_from_integer_centres(arrays["uv"]),
                depth=arrays["depth"].astype(np.float64),
            )


@dataclass(frozen=True)
class PairTruth:
    """What a set knows about one pair of images.

    Attributes:
        image1: first image.
        image2: second image.
        cam2_from_cam1: (4, 4) true relative pose, or None.
        K1: (3, 3) true intrinsics of image 1, or None.
        K2: (3, 3) true intrinsics of image 2, or None.
        H_2from1: (3, 3) true homography of a planar scene, or None.
        band: how hard the pair is ("high" ... "wide" overlap), "negative", or None.
        overlap: share of the views that both see, in [0, 1], or None.
    """

    image1: ImageTruth
    image2: ImageTruth
    cam2_from_cam1: np.ndarray | None
    K1: np.ndarray | None
    K2: np.ndarray | None
    H_2from1: np.ndarray | None
    band: str | None
    overlap: float | None

    @property
    def is_negative(self) -> bool:
        """True when the images show different places that look alike: no match is right."""
        return self.band == NEGATIVE_BAND


@dataclass(frozen=True)
class EvaluationSet:
    """One set of images with its truth.

    Attributes:
        name: name of the set's folder.
        folder: the folder.
        units: "metric" or "unknown".
        images: image name -> truth, in the file's order.
        pairs: the listed pairs; empty when the set lists none.
        truth_files: the files that the poses, intrinsics and pairs come from.
    """

    name: str
    folder: Path
    units: str
    images: Mapping[str, ImageTruth]
    pairs: tuple[PairTruth, ...]
    truth_files: tuple[Path, ...] = ()

    @property
    def data_files(self) -> tuple[Path, ...]:
        """Every file that a number of this set depends on, sorted."""
        files = set(self.truth_files)
        for image in self.images.values():
            truth = image.depth_path, image.sparse_depth_path, image.disparity_path
            files.update(path for path in (image.path, *truth) if path is not None)
        return tuple(sorted(files))

    def subset(self, names: Sequence[str]) -> EvaluationSet:
        """The same set with some of its images only, and the pairs between them."""
        missing = sorted(set(names) - set(self.images))
        if missing:
            raise ValueError(f"set {self.name} has no image {missing}; it has {list(self.images)}")
        kept = set(names)
        return EvaluationSet(
            name=self.name,
            folder=self.folder,
            units=self.units,
            images={name: image for name, image in self.images.items() if name in kept},
            pairs=tuple(p for p in self.pairs if p.image1.name in kept and p.image2.name in kept),
            truth_files=self.truth_files,
        )


@dataclass(frozen=True)
class EvaluationScene:
    """A named part of a set that is reconstructed as one scene (`scenes.json`).

    Attributes:
        name: unique name of the scene.
        set_name: the set that holds its images.
        split: "dev" or another name of a split.
        tags: what kind of scene it is.
        images: the images used, or None for all of the set.
    """

    name: str
    set_name: str
    split: str
    tags: tuple[str, ...]
    images: tuple[str, ...] | None


def read_set(eval_root: Path | str, name: str) -> EvaluationSet:
    """Read one set.

    Args:
        eval_root: folder that holds the sets, or that holds a folder `sets` with them.
        name: name of the set's folder.

    Raises:
        FileNotFoundError: if the set, or an image that it lists, is not there.
        ValueError: if a file does not follow the layout.
    """
    root = sets_folder(eval_root)
    folder = root / name
    if Path(name).name != name or not (folder / "cameras.json").is_file():
        raise FileNotFoundError(f"no set {name!r} in {root}; it has {list_sets(eval_root)}")
    cameras = _read_json(folder / "cameras.json")
    images = {}
    for entry in _field(cameras, "images", folder / "cameras.json"):
        image = _read_image(entry, folder)
        images[image.name] = image
    pairs: list[PairTruth] = []
    truth_files = [folder / "cameras.json"]
    if (folder / "pairs.json").is_file():
        truth_files.append(folder / "pairs.json")
        entries = _field(_read_json(folder / "pairs.json"), "pairs", folder / "pairs.json")
        pairs = [_read_pair(entry, images, folder / "pairs.json") for entry in entries]
    units = str(cameras.get("units", "unknown"))
    return EvaluationSet(name, folder, units, images, tuple(pairs), tuple(truth_files))


def list_sets(eval_root: Path | str) -> list[str]:
    """Names of the sets under a folder, sorted."""
    return sorted(path.parent.name for path in sets_folder(eval_root).glob("*/cameras.json"))


def sets_folder(eval_root: Path | str) -> Path:
    """The folder that holds the sets: `eval_root/sets` if it is there, else `eval_root`."""
    root = Path(eval_root)
    if not root.is_dir():
        raise FileNotFoundError(f"no evaluation folder {root}")
    return root / "sets" if (root / "sets").is_dir() else root


def read_scenes(eval_root: Path | str, split: str | None = None) -> list[EvaluationScene]:
    """Read `scenes.json` beside the sets; only one split's scenes if `split` is given."""
    path = Path(eval_root) / "scenes.json"
    if not path.is_file():
        raise FileNotFoundError(f"no scenes.json in {eval_root}")
    scenes = []
    for entry in _field(_read_json(path), "scenes", path):
        names = entry.get("images")
        scenes.append(
            EvaluationScene(
                name=_field(entry, "name", path),
                set_name=_field(entry, "set", path),
                split=entry.get("split", "dev"),
                tags=tuple(entry.get("tags", ())),
                images=None if names is None else tuple(names),
            )
        )
    return [scene for scene in scenes if split is None or scene.split == split]


def K_from_integer_centres(K: Any) -> np.ndarray:
    """Intrinsics that count pixel centres at integers -> at half-integers (float64 copy)."""
    converted = np.array(K, dtype=np.float64)
    converted[..., :2, 2] += 0.5 * converted[..., 2:3, 2]
    return converted


def K_to_integer_centres(K: Any) -> np.ndarray:
    """Intrinsics that count pixel centres at half-integers -> at integers (float64 copy)."""
    converted = np.array(K, dtype=np.float64)
    converted[..., :2, 2] -= 0.5 * converted[..., 2:3, 2]
    return converted


def xy_from_integer_centres(xy: Any) -> np.ndarray:
    """Pixel positions that count centres at integers -> at half-integers."""
    return np.asarray(xy, dtype=np.float64) + 0.5


def xy_to_integer_centres(xy: Any) -> np.ndarray:
    """Pixel positions that count centres at half-integers -> at integers."""
    return np.asarray(xy, dtype=np.float64) - 0.5


def homography_from_integer_centres(H_2from1: Any) -> np.ndarray:
    """Homography between pixels counted at integers -> between pixels at half-integers."""
    shift = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    return shift @ np.asarray(H_2from1, np.float64) @ np.linalg.inv(shift)


def _read_image(entry: Mapping[str, Any], folder: Path) -> ImageTruth:
    where = folder / "cameras.json"
    name = _field(entry, "name", where)
    path = _inside(folder, f"images/{name}")
    if not path.is_file():
        raise FileNotFoundError(f"{where} lists {name!r} but {path} does not exist")
    K = entry.get("K")
    return ImageTruth(
        name=name,
        path=path,
        size=(int(_field(entry, "height", where)), int(_field(entry, "width", where))),
        K=None if K is None else K_from_integer_centres(_matrix(K, (3, 3), where)),
        cam_from_world=_matrix(entry.get("cam_from_world"), (4, 4), where),
        depth_path=_optional_path(folder, entry.get("depth")),
        sparse_depth_path=_optional_path(folder, entry.get("sparse_depth")),
        disparity_path=_optional_path(folder, entry.get("disparity")),
    )


def _read_pair(
    entry: Mapping[str, Any], images: Mapping[str, ImageTruth], where: Path
) -> PairTruth:
    names = _field(entry, "image1", where), _field(entry, "image2", where)
    for name in names:
        if name not in images:
            raise ValueError(f"{where} has a pair with {name!r}, which cameras.json does not list")
    K1, K2 = (_matrix(entry.get(key), (3, 3), where) for key in ("K1", "K2"))
    homography = _matrix(entry.get("H_2from1"), (3, 3), where)
    overlap = entry.get("overlap")
    return PairTruth(
        image1=images[names[0]],
        image2=images[names[1]],
        cam2_from_cam1=_matrix(entry.get("T_2from1"), (4, 4), where),
        K1=None if K1 is None else K_from_integer_centres(K1),
        K2=None if K2 is None else K_from_integer_centres(K2),
        H_2from1=None if homography is None else homography_from_integer_centres(homography),
        band=entry.get("band"),
        overlap=None if overlap is None else float(overlap),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _field(entry: Mapping[str, Any], key: str, where: Path) -> Any:
    if key not in entry:
        raise ValueError(f"{where}: an entry lacks {key!r}; it has {sorted(entry)}")
    return entry[key]


def _matrix(value: Any, shape: tuple[int, int], where: Path) -> np.ndarray | None:
    if value is None:
        return None
    matrix = np.array(value, dtype=np.float64)
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise ValueError(f"{where}: expected a finite {shape} matrix, got {value}")
    return matrix


def _optional_path(folder: Path, name: str | None) -> Path | None:
    return None if not name else _inside(folder, name)


def _inside(folder: Path, name: str) -> Path:
    """Join a name from a JSON file to its folder; a name that leads outside is refused."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{folder}: {name!r} leads outside the set's folder")
    return folder / name


def _masked(path: Path | None, key: str) -> np.ndarray | None:
    if path is None:
        return None
    with np.load(path) as arrays:
        values = arrays[key].astype(np.float32)
        return np.where(arrays["valid"], values, np.float32(0))
