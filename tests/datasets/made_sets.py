"""A small generated data set, and its copies in every layout that is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from weav3r.datasets.exr import write_exr
from weav3r.datasets.posed_view import K_to_integer_centres, PosedView
from weav3r.datasets.procedural.generator import ProceduralScenes
from weav3r.datasets.procedural.render import render
from weav3r.datasets.procedural.rng import SceneRandom
from weav3r.datasets.textures import TextureBank
from weav3r.geometry.camera import rigid_inverse_array

SIZE = (72, 96)
VIEWS = 8
NED_FROM_OPENCV = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])


@dataclass(frozen=True)
class Stored:
    """What a layout stores of a view; a fault is a change of one of these."""

    image: np.ndarray
    depth: np.ndarray  # metres
    K: np.ndarray  # pixel centres at half-integers
    world_from_cam: np.ndarray

    @staticmethod
    def of(view: PosedView) -> Stored:
        return Stored(view.image, view.depth, view.K, view.world_from_cam)


Made = dict[str, list[Stored]]  # scene -> views


def make_rooms(count: int = 2) -> Made:
    """Rooms of the procedural generator, seen 90 degrees wide by one lens."""
    bank = TextureBank.procedural(count=24, size=64)
    source = ProceduralScenes(
        *SIZE, VIEWS, seed=5, textures=bank, overlap=(0.4, 0.9), relight_chance=0
    )
    scene, cameras = source.stage(SceneRandom.from_indices(5, torch.tensor([3, 4][:count])))
    K = torch.tensor([[SIZE[1] / 2, 0, SIZE[1] / 2], [0, SIZE[1] / 2, SIZE[0] / 2], [0, 0, 1]])
    K = K.expand(count, VIEWS, 3, 3)
    views = render(scene, bank.table, K, cameras.world_from_cam, *SIZE, shadows=False)
    rgb = (views.rgb.clamp(0, 1) ** (1 / 2.2) * 255).round().to(torch.uint8)
    made: Made = {}
    for s in range(count):
        made[f"room{s}"] = [
            Stored(
                rgb[s, v].numpy(),
                torch.where(views.surface_id[s, v] >= 0, views.depth[s, v], 0.0).numpy(),
                K[s, v].double().numpy(),
                cameras.world_from_cam[s, v].double().numpy(),
            )
            for v in range(VIEWS)
        ]
    return made


def save_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def save_png16(path: Path, depth: np.ndarray, per_metre: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((depth * per_metre).round().clip(0, 65535).astype(np.uint16)).save(path)


def integer_K(view: Stored) -> np.ndarray:
    return K_to_integer_centres(view.K).astype(np.float32)


def camera_npz(path: Path, **names: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **names)


def to_weav3r(made: Made, folder: Path) -> None:
    lines = []
    for scene, views in made.items():
        for n, view in enumerate(views):
            image, depth = f"images/{scene}/{n:03d}.png", f"depth/{scene}/{n:03d}.npy"
            save_image(folder / image, view.image)
            (folder / depth).parent.mkdir(parents=True, exist_ok=True)
            np.save(folder / depth, view.depth)
            entry = {"scene": scene, "name": f"{n:03d}", "image": image, "depth": depth}
            entry |= {"size": view.image.shape[:2], "K": view.K.tolist()}
            lines.append(json.dumps(entry | {"world_from_cam": view.world_from_cam.tolist()}))
    (folder / "views.jsonl").write_text("\n".join(lines))
    index = {"format": "weav3r-dataset", "version": 1, "unit": "metre"}
    splits = {"train": list(made)[:1], "val": list(made)[1:]}
    (folder / "dataset.json").write_text(json.dumps(index | {"splits": splits}))


def to_colmap(made: Made, folder: Path) -> None:
    for scene, views in made.items():
        model = pycolmap.Reconstruction()
        tracks = points_of(views)
        for n, view in enumerate(views):
            height, width = view.image.shape[:2]
            K = view.K
            camera = pycolmap.Camera(
                camera_id=n + 1,
                model="PINHOLE",
                width=width,
                height=height,
                params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
            )
            model.add_camera_with_trivial_rig(camera)
            keypoints = np.array([xy[n] for _, xy in tracks if n in xy]).reshape(-1, 2)
            image = pycolmap.Image(
                name=f"{n:03d}.jpg", keypoints=keypoints, camera_id=n + 1, image_id=n + 1
            )
            pose = pycolmap.Rigid3d(rigid_inverse_array(view.world_from_cam)[:3])
            model.add_image_with_trivial_frame(image, pose)
            save_image(folder / scene / "images" / f"{n:03d}.jpg", view.image)
        used = dict.fromkeys(range(len(views)), 0)
        for xyz, xy in tracks:
            elements = [pycolmap.TrackElement(n + 1, used[n]) for n in xy]
            for n in xy:
                used[n] += 1
            model.add_point3D(xyz, pycolmap.Track(elements), np.zeros(3, np.uint8))
        (folder / scene / "sparse" / "0").mkdir(parents=True)
        model.write_binary(str(folder / scene / "sparse" / "0"))


def points_of(views: list[Stored]) -> list[tuple[np.ndarray, dict[int, np.ndarray]]]:
    """Points of a grid of each view, and where the views see them."""
    tracks = []
    for view in views:
        posed = PosedView(view.image, view.depth, view.K, view.world_from_cam)
        world = posed.pointmap_world[4::12, 4::12][posed.valid[4::12, 4::12]]
        for point in world:
            seen = {}
            for n, other in enumerate(views):
                pose = other.world_from_cam
                in_cam = (point - pose[:3, 3]) @ pose[:3, :3]
                if in_cam[2] <= 0:
                    continue
                xy = (other.K @ in_cam)[:2] / in_cam[2]
                size = other.image.shape[:2]
                if (xy < 0).any() or xy[0] >= size[1] or xy[1] >= size[0]:
                    continue
                if abs(other.depth[int(xy[1]), int(xy[0])] / in_cam[2] - 1) < 0.03:
                    seen[n] = xy
            if len(seen) > 1:
                tracks.append((point, seen))
    return tracks


def to_nerfstudio(made: Made, folder: Path) -> None:
    for scene, views in made.items():
        frames = []
        for n, view in enumerate(views):
            save_image(folder / scene / "images" / f"{n:03d}.jpg", view.image)
            save_png16(folder / scene / "depth" / f"{n:03d}.png", view.depth, 1000)
            height, width = view.image.shape[:2]
            opengl = view.world_from_cam @ np.diag([1.0, -1, -1, 1])
            frames.append(
                {
                    "file_path": f"images/{n:03d}.jpg",
                    "depth_file_path": f"depth/{n:03d}.png",
                    "transform_matrix": opengl.tolist(),
                    "fl_x": view.K[0, 0],
                    "fl_y": view.K[1, 1],
                    "cx": view.K[0, 2],
                    "cy": view.K[1, 2],
                    "w": width,
                    "h": height,
                }
            )
        document = {"camera_model": "OPENCV", "frames": frames}
        (folder / scene / "transforms.json").write_text(json.dumps(document))


def to_rgbd(made: Made, folder: Path) -> None:
    for scene, views in made.items():
        place = folder / scene
        rgb, depth, truth = ["# time file"], ["# time file"], ["# time tx ty tz qx qy qz qw"]
        for n, view in enumerate(views):
            time = 100 + n / 10
            save_image(place / "rgb" / f"{time:.6f}.png", view.image)
            save_png16(place / "depth" / f"{time + 0.004:.6f}.png", view.depth, 5000)
            rgb.append(f"{time:.6f} rgb/{time:.6f}.png")
            depth.append(f"{time + 0.004:.6f} depth/{time + 0.004:.6f}.png")
            quaternion = Rotation.from_matrix(view.world_from_cam[:3, :3]).as_quat()
            numbers = [*view.world_from_cam[:3, 3], *quaternion]
            truth.append(" ".join(f"{v:.9f}" for v in [time, *numbers]))
        for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
            (place / f"{name}.txt").write_text("\n".join(lines) + "\n")
        K = K_to_integer_centres(views[0].K)
        numbers = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
        (place / "intrinsics.txt").write_text(" ".join(map(str, numbers)))


def to_scannet(made: Made, folder: Path) -> None:
    for scene, views in made.items():
        place = folder / scene
        for name in ("pose", "intrinsic"):
            (place / name).mkdir(parents=True)
        K = np.eye(4)
        K[:3, :3] = K_to_integer_centres(views[0].K)
        np.savetxt(place / "intrinsic" / "intrinsic_color.txt", K)
        for n, view in enumerate(views):
            save_image(place / "color" / f"{n}.jpg", view.image)
            save_png16(place / "depth" / f"{n}.png", view.depth[::2, ::2], 1000)
            np.savetxt(place / "pose" / f"{n}.txt", view.world_from_cam)


def to_co3d(made: Made, folder: Path) -> None:
    for scene, views in made.items():
        place = folder / "chair" / scene
        for n, view in enumerate(views):
            name, most = f"frame{n:06d}", float(max(view.depth.max(), 1e-6))
            save_image(place / "images" / f"{name}.jpg", view.image)
            camera_npz(
                place / "images" / f"{name}.npz",
                camera_pose=view.world_from_cam.astype(np.float32),
                camera_intrinsics=integer_K(view),
                maximum_depth=np.float32(most),
            )
            save_png16(place / "depths" / f"{name}.jpg.geometric.png", view.depth, 65535 / most)
            save_image(place / "masks" / f"{name}.png", np.full(view.image.shape[:2], 255, "u1"))
    _select(made, folder, "chair")


def _select(made: Made, folder: Path, category: str) -> None:
    scenes = list(made)
    for split, names in (("train", scenes[:1]), ("test", scenes[1:])):
        listed = {category: {name: list(range(len(made[name]))) for name in names}}
        (folder / f"selected_seqs_{split}.json").write_text(json.dumps(listed))


def to_wildrgbd(made: Made, folder: Path) -> None:
    for scene, views in made.items():
        place = folder / "cup" / scene
        for n, view in enumerate(views):
            save_image(place / "rgb" / f"{n:05d}.jpg", view.image)
            save_png16(place / "depth" / f"{n:05d}.png", view.depth, 1000)
            save_image(place / "masks" / f"{n:05d}.png", np.full(view.image.shape[:2], 255, "u1"))
            camera_npz(
                place / "metadata" / f"{n:05d}.npz",
                camera_pose=view.world_from_cam,
                camera_intrinsics=integer_K(view),
            )
    _select(made, folder, "cup")


def all_pairs(made: Made) -> list[tuple[int, int, int]]:
    """(scene, view, view), views counted over all scenes."""
    found, first = [], 0
    for s, views in enumerate(made.values()):
        count = len(views)
        found += [(s, first + i, first + j) for i in range(count) for j in range(i + 1, count)]
        first += count
    return found


def to_megadepth(made: Made, folder: Path) -> None:
    scenes = [f"{n + 14:04d} 0" for n in range(len(made))]
    images = []
    for name, views in zip(scenes, made.values(), strict=True):
        for n, view in enumerate(views):
            image = f"{n:03d}_o.jpg"
            images.append(image)
            stem = folder / name.replace(" ", "/") / image
            save_image(stem.with_name(f"{image}.jpg"), view.image)
            write_exr(stem.with_name(f"{image}.exr"), view.depth)
            camera_npz(
                stem.with_name(f"{image}.npz"),
                intrinsics=integer_K(view),
                cam2world=view.world_from_cam,
            )
    fields = [("scene_id", "i4"), ("im1_id", "i4"), ("im2_id", "i4"), ("score", "f4")]
    pairs = np.array([(*p, 0.5) for p in all_pairs(made)], dtype=fields)
    np.savez(folder / "all_metadata.npz", scenes=scenes, images=images, pairs=pairs)


def to_blendedmvs(made: Made, folder: Path) -> None:
    rows = []
    for s, views in enumerate(made.values()):
        place = folder / f"{7:08x}{s + 9:016x}"
        for n, view in enumerate(views):
            save_image(place / f"{n:08d}.jpg", view.image)
            write_exr(place / f"{n:08d}.exr", view.depth)
            camera_npz(
                place / f"{n:08d}.npz",
                intrinsics=integer_K(view),
                R_cam2world=view.world_from_cam[:3, :3],
                t_cam2world=view.world_from_cam[:3, 3],
            )
        count = len(views)
        rows += [(7, s + 9, i, j, 0.4) for i in range(count) for j in range(i + 1, count)]
    fields = [("seq_high", "u4"), ("seq_low", "u8"), ("img1", "i4"), ("img2", "i4")]
    np.save(folder / "blendedmvs_pairs.npy", np.array(rows, dtype=[*fields, ("score", "f4")]))


def _metadata(made: Made, folder: Path, integer_centres: bool) -> None:
    scenes, views = list(made), [view for own in made.values() for view in own]
    K = [integer_K(v) if integer_centres else v.K for v in views]
    np.savez(
        folder / "all_metadata.npz",
        scenes=scenes,
        sceneids=np.repeat(np.arange(len(scenes)), [len(v) for v in made.values()]),
        images=[f"{n:03d}.png" for own in made.values() for n in range(len(own))],
        intrinsics=np.stack(K),
        trajectories=np.stack([v.world_from_cam for v in views]),
        pairs=np.array([(i, j, 0) for _, i, j in all_pairs(made)]),
    )


def to_scannetpp(made: Made, folder: Path) -> None:
    for scene, views in made.items():
        for n, view in enumerate(views):
            save_image(folder / scene / "images" / f"{n:03d}.jpg", view.image)
            save_png16(folder / scene / "depth" / f"{n:03d}.png", view.depth, 1000)
    _metadata(made, folder, integer_centres=False)


def to_arkitscenes(made: Made, folder: Path) -> None:
    for part, scene in zip(("Training", "Test"), made, strict=True):
        place = folder / part / scene
        for n, view in enumerate(made[scene]):
            save_image(place / "vga_wide" / f"{n:03d}.jpg", view.image)
            save_png16(place / "lowres_depth" / f"{n:03d}.png", view.depth[::2, ::2], 1000)
        _metadata({scene: made[scene]}, folder / part, integer_centres=True)


def to_staticthings(made: Made, folder: Path) -> None:
    rows = []
    for s, views in enumerate(made.values()):
        places = []
        for n, view in enumerate(views):
            side, frame = ("left", "right")[n % 2], 6 + n // 2
            stem = folder / "TRAIN" / "A" / f"{s:04d}" / side / f"{frame:04d}"
            for kind in ("clean", "final"):
                save_image(stem.with_name(f"{stem.name}_{kind}.jpg"), view.image)
            write_exr(stem.with_suffix(".exr"), view.depth)
            camera_npz(
                stem.with_suffix(".npz"),
                intrinsics=integer_K(view),
                cam2world=view.world_from_cam,
            )
            places.append((side[0], f"{frame:04d}"))
        count = len(places)
        rows += [
            ("A", f"{s:04d}", *places[i], *places[j])
            for i in range(count)
            for j in range(i + 1, count)
        ]
    np.save(folder / "staticthings_pairs.npy", np.array(rows))


def to_waymo(made: Made, folder: Path) -> None:
    frames = []
    for scene, views in made.items():
        for n, view in enumerate(views):
            frames.append(f"{n:05d}_{1 + n % 5}")
            stem = folder / scene / frames[-1]
            save_image(stem.with_name(f"{stem.name}.jpg"), view.image)
            write_exr(stem.with_name(f"{stem.name}.exr"), view.depth)
            camera_npz(
                stem.with_name(f"{stem.name}.npz"),
                intrinsics=integer_K(view),
                cam2world=view.world_from_cam,
                distortion=np.zeros(5),
            )
    pairs = np.array(all_pairs(made))
    np.savez(folder / "waymo_pairs.npz", scenes=list(made), frames=frames, pairs=pairs)


def to_habitat(made: Made, folder: Path) -> None:
    stems = []
    for scene, views in made.items():
        stems.append(f"hm3d/{scene}/00000")
        for n, view in enumerate(views[:5], 1):
            stem = folder / stems[-1]
            save_image(stem.with_name(f"{stem.name}_{n}.jpeg"), view.image)
            write_exr(stem.with_name(f"{stem.name}_{n}_depth.exr"), view.depth)
            camera = {
                "camera_intrinsics": integer_K(view).tolist(),
                "R_cam2world": view.world_from_cam[:3, :3].tolist(),
                "t_cam2world": view.world_from_cam[:3, 3].tolist(),
                "size": view.image.shape[1],
            }
            path = stem.with_name(f"{stem.name}_{n}_camera_params.json")
            path.write_text(json.dumps(camera))
    (folder / "Habitat_1000_scenes_train.txt").write_text("\n".join(stems) + "\n")


def to_tartanair(made: Made, folder: Path) -> None:
    for scene, views in made.items():
        place = folder / scene / "Easy" / "P000"
        rows = []
        for n, view in enumerate(views):
            save_image(place / "image_left" / f"{n:06d}_left.png", view.image)
            path = place / "depth_left" / f"{n:06d}_left_depth.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, view.depth)
            # Their camera looks along x, with y to the right and z down.
            rotation = view.world_from_cam[:3, :3] @ NED_FROM_OPENCV.T
            rows.append([*view.world_from_cam[:3, 3], *Rotation.from_matrix(rotation).as_quat()])
        np.savetxt(place / "pose_left.txt", rows)


EXPORTS: dict[str, Callable[[Made, Path], None]] = {
    "weav3r": to_weav3r,
    "colmap": to_colmap,
    "nerfstudio": to_nerfstudio,
    "rgbd": to_rgbd,
    "scannet": to_scannet,
    "co3d": to_co3d,
    "wildrgbd": to_wildrgbd,
    "scannetpp": to_scannetpp,
    "arkitscenes": to_arkitscenes,
    "megadepth": to_megadepth,
    "blendedmvs": to_blendedmvs,
    "staticthings": to_staticthings,
    "waymo": to_waymo,
    "tartanair": to_tartanair,
    "habitat": to_habitat,
}


def changed(made: Made, change: Callable[[int, Stored], Stored]) -> Made:
    """Every view changed by its number in the scene."""
    return {s: [change(n, view) for n, view in enumerate(views)] for s, views in made.items()}


def with_poses(made: Made, change: Callable[[np.ndarray], np.ndarray]) -> Made:
    """Every pose changed."""
    return changed(made, lambda _, v: replace(v, world_from_cam=change(v.world_from_cam)))
