"""MegaDepth and BlendedMVS as prepared for training: photo collections with dense depth.

    MegaDepth:   DIR/all_metadata.npz (`scenes`: "scene sub", `images`, `pairs`: records scene_id,
                 im1_id, im2_id, score); SCENE/SUB/IMAGE.{jpg,exr,npz}, IMAGE with its own suffix
    BlendedMVS:  DIR/blendedmvs_pairs.npy (records seq_high, seq_low, img1, img2, score);
                 SEQ/NNNNNNNN.{jpg,exr,npz}, SEQ = both halves in hexadecimal

Poses are camera-to-world, pixel centres at integers, the unit is arbitrary. Negative depth is sky.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..depth_files import DepthFile
from ..posed_set import PosedSet, ViewEntry
from ..posed_view import K_from_integer_centres
from ._common import load_npy, load_npz, pairs_by_key, rigid

_MEGADEPTH_HELD_OUT = ("0015", "0022")


def detect_megadepth(folder: Path) -> bool:
    """Whether the metadata has MegaDepth's arrays and no trajectories, as indoor sets have."""
    path = folder / "all_metadata.npz"
    if not path.is_file():
        return False
    with np.load(path, allow_pickle=False) as arrays:
        return {"scenes", "images", "pairs"} <= set(arrays.files) and "trajectories" not in arrays


def detect_blendedmvs(folder: Path) -> bool:
    """Whether there is its list of pairs."""
    return (folder / "blendedmvs_pairs.npy").is_file()


def read_megadepth(folder: Path) -> PosedSet:
    """Read prepared MegaDepth; scenes 0015 and 0022 are for validation.

    Raises:
        FileNotFoundError: the camera of a listed photo is missing.
        ValueError: the list or a camera cannot be read.
    """
    arrays = load_npz(folder / "all_metadata.npz", ("scenes", "images", "pairs"))
    scenes = ["/".join(str(s).split()) for s in arrays["scenes"]]
    images = [str(name) for name in arrays["images"]]
    pairs = _records(arrays["pairs"], ("scene_id", "im1_id", "im2_id", "score"), folder)
    wanted = sorted({(int(p[0]), int(p[k])) for p in pairs for k in (1, 2)})
    views = []
    for scene, image in wanted:
        stem = folder / scenes[scene] / images[image]
        camera = load_npz(_with(stem, ".npz"), ("intrinsics", "cam2world"))
        views.append(
            ViewEntry(
                scene=scenes[scene],
                name=images[image],
                image=_with(stem, ".jpg"),
                K=K_from_integer_centres(camera["intrinsics"]),
                world_from_cam=camera["cam2world"].astype(float),
                depth=DepthFile(_with(stem, ".exr")),
            )
        )
    keys = (
        (f"{scenes[int(s)]}/{images[int(a)]}", f"{scenes[int(s)]}/{images[int(b)]}", float(score))
        for s, a, b, score in pairs
    )
    held_out = {s for s in scenes if s.startswith(_MEGADEPTH_HELD_OUT)}
    splits = _split(views, held_out)
    return PosedSet(
        folder, "megadepth", "arbitrary", tuple(views), splits, pairs_by_key(views, keys)
    )


def read_blendedmvs(folder: Path) -> PosedSet:
    """Read prepared BlendedMVS; every tenth sequence by number is for validation.

    Raises: as `read_megadepth`.
    """
    path = folder / "blendedmvs_pairs.npy"
    fields = ("seq_high", "seq_low", "img1", "img2", "score")
    pairs = _records(load_npy(path), fields, folder)
    names = [f"{int(p[0]):08x}{int(p[1]):016x}" for p in pairs]
    held_out = {name for name, p in zip(names, pairs, strict=True) if int(p[1]) % 10 == 0}
    wanted = sorted({(n, int(p[k])) for n, p in zip(names, pairs, strict=True) for k in (2, 3)})
    views = []
    for sequence, image in wanted:
        stem = folder / sequence / f"{image:08d}"
        camera = load_npz(_with(stem, ".npz"), ("intrinsics", "R_cam2world", "t_cam2world"))
        views.append(
            ViewEntry(
                scene=sequence,
                name=f"{image:08d}",
                image=_with(stem, ".jpg"),
                K=K_from_integer_centres(camera["intrinsics"]),
                world_from_cam=rigid(camera["R_cam2world"], camera["t_cam2world"]),
                depth=DepthFile(_with(stem, ".exr")),
            )
        )
    keys = (
        (f"{name}/{int(p[2]):08d}", f"{name}/{int(p[3]):08d}", float(p[4]))
        for name, p in zip(names, pairs, strict=True)
    )
    return PosedSet(
        folder,
        "blendedmvs",
        "arbitrary",
        tuple(views),
        _split(views, held_out),
        pairs_by_key(views, keys),
    )


def _records(pairs: np.ndarray, fields: tuple[str, ...], folder: Path) -> list[tuple]:
    names = pairs.dtype.names or ()
    if not set(fields) <= set(names):
        raise ValueError(f"{folder}: expected pairs with the fields {fields}, got {names}")
    return [tuple(row) for row in pairs[list(fields)].tolist()]


def _split(views: list[ViewEntry], held_out: set[str]) -> dict[str, tuple[str, ...]]:
    scenes = list(dict.fromkeys(view.scene for view in views))
    return {
        "train": tuple(s for s in scenes if s not in held_out),
        "val": tuple(s for s in scenes if s in held_out),
    }


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
