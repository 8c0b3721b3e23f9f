"""Crops of posed views that keep the camera right: by homography, by quarter turns, transposed.

Sizes are (height, width); windows are (left, top, right, bottom) in pixels. The homography crop
turns the camera towards the window, so that the principal point stays in the middle of the crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Num
from PIL import Image

from .posed_view import PosedView

Window = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class HomographyCrop:
    """A view of the same camera centre, turned and zoomed.

    Attributes:
        K: intrinsics of the crop.
        old_from_new: rotation from the camera frame of the crop to that of the original.
        homography: takes pixels of the crop to pixels of the original, `K_old R K^-1`.
        size: (height, width) of the crop.
    """

    K: Float64[np.ndarray, "3 3"]
    old_from_new: Float64[np.ndarray, "3 3"]
    homography: Float64[np.ndarray, "3 3"]
    size: tuple[int, int]


def homography_crop(
    K: Float[np.ndarray, "3 3"], window: Window, size: tuple[int, int] | None = None
) -> HomographyCrop:
    """Aim a camera at a window of its image.

    The optical axis comes to lie in the middle of the window, and the corner of the window that is
    farthest from the old principal point stays where it was.

    Args:
        K: intrinsics of the image.
        window: rounded to whole pixels.
        size: (height, width) that the window is scaled to fit into; None keeps its size.

    Raises:
        ValueError: if the window is empty.
    """
    left, top, right, bottom = (round(value) for value in window)
    width, height = right - left, bottom - top
    if width < 1 or height < 1:
        raise ValueError(f"the window (left, top, right, bottom) {window} holds no pixel")
    own = np.array(K, dtype=np.float64)
    middle = own.copy()
    middle[:2, 2] = width / 2, height / 2
    corners = np.array([[x, y] for x in (0, width) for y in (0, height)])
    distance = np.linalg.norm(corners + (left, top) - own[:2, 2], axis=1)
    corner = corners[distance.argmax()]
    old = _rotation_from_axis(np.linalg.solve(own, [*(corner + (left, top)), 1.0]))
    new = _rotation_from_axis(np.linalg.solve(middle, [*corner, 1.0]))
    rotation = old @ new.T
    height, width = size or (height, width)
    scale = min(width / (right - left), height / (bottom - top))
    target = np.diag([scale, scale, 1.0]) @ middle
    target[:2, 2] = width / 2, height / 2
    homography = own @ rotation @ np.linalg.inv(target)
    return HomographyCrop(target, rotation, homography, (height, width))


def apply_homography_crop(view: PosedView, crop: HomographyCrop) -> PosedView:
    """Resample a view: the image bicubic, the depth from the nearest pixel.

    Pixels of the crop that the view does not show are black and have no depth.
    """
    height, width = crop.size
    coefficients = (crop.homography / crop.homography[2, 2]).ravel()[:8].tolist()
    image = Image.fromarray(view.image).transform(
        (width, height), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    )
    rows, columns = np.mgrid[:height, :width] + 0.5
    old = np.stack([columns, rows, np.ones_like(rows)], -1) @ crop.homography.T
    old = old[..., :2] / old[..., 2:]
    inside = np.all((old >= 0) & (old < (view.size[1], view.size[0])), axis=-1)
    column, row = np.where(inside[..., None], old, 0).astype(np.int64).transpose(2, 0, 1)
    # z in the turned camera of the point at that pixel; the sky keeps its sign.
    axis = crop.old_from_new[:, 2]
    along = (view.pointmap_in_cam[row, column] * axis).sum(-1)
    depth = np.where(inside, along, 0).astype(np.float32)
    pose = view.world_from_cam.copy()
    pose[:3, :3] = pose[:3, :3] @ crop.old_from_new
    return PosedView(np.asarray(image), depth, crop.K, pose)


def random_windows(
    size: tuple[int, int],
    target: tuple[int, int],
    range_px: float,
    count: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "n 4"]:
    """Draw windows of the target's shape at a random zoom, the same zoom for all of them.

    Args:
        size: (height, width) of the image.
        target: (height, width) whose aspect ratio the windows have.
        range_px: the image may be enlarged until its short side is this many pixels longer.
        count: how many windows.
        rng: source of randomness.

    Returns:
        (left, top, right, bottom) in pixels of the image.
    """
    image = np.array([size[1], size[0]])
    wanted = np.array([target[1], target[0]])
    factor = np.exp(rng.uniform(0, np.log(1 + range_px / min(size))))
    window = np.minimum(np.round(wanted * (image / wanted).min()), image)
    room = np.floor(image * factor) - window
    corner = rng.random((count, 2)) * room
    return np.concatenate([corner, corner + window], 1) / factor


def automatic_range_px(size: tuple[int, int], target: tuple[int, int]) -> float:
    """Zoom range of `random_windows` for an image (height, width) that is to become a target.

    It reaches to the zoom at which image pixels are target pixels, and to 10 % at least.
    """
    short, wanted = min(size), min(target)
    return float(max(0.1 * short, short * (short - wanted) // wanted))


def best_windows(
    windows1: Float64[np.ndarray, "a 4"],
    windows2: Float64[np.ndarray, "b 4"],
    pixels1: Int[np.ndarray, "n 2"],
    pixels2: Int[np.ndarray, "n 2"],
) -> tuple[int, int]:
    """Choose the window of each view so that most matches lie inside both; ties go to the first."""
    inside1, inside2 = (
        np.all((pixels[:, None] >= windows[:, :2]) & (pixels[:, None] < windows[:, 2:]), axis=-1)
        for pixels, windows in ((pixels1, windows1), (pixels2, windows2))
    )
    count = np.einsum("na,nb->ab", inside1.astype(np.int64), inside2.astype(np.int64))
    first, second = np.unravel_index(count.argmax(), count.shape)
    return int(first), int(second)


def rotate_quarters(view: PosedView, quarters: int) -> PosedView:
    """Turn a view counter-clockwise by quarter turns; the world stays where it is."""
    K, pose, size = view.K.copy(), view.world_from_cam.copy(), view.size
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for _ in range(quarters % 4):
        K[[0, 1], [0, 1]] = K[[1, 0], [1, 0]]
        K[0, 2], K[1, 2] = K[1, 2], size[1] - K[0, 2]
        pose[:3, :3] = pose[:3, :3] @ turn
        size = size[1], size[0]
    image, depth = (
        np.ascontiguousarray(np.rot90(array, quarters)) for array in (view.image, view.depth)
    )
    return PosedView(image, depth, K, pose)


def rotate_pixels(
    pixels: Int[np.ndarray, "n 2"], size: tuple[int, int], quarters: int
) -> Int[np.ndarray, "n 2"]:
    """Follow pixels (column, row) of an image (height, width) through `rotate_quarters`."""
    for _ in range(quarters % 4):
        pixels = np.stack([pixels[:, 1], size[1] - 1 - pixels[:, 0]], -1)
        size = size[1], size[0]
    return pixels


def transpose_intrinsics(K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of the transposed image, for the same camera frame; no longer upper triangular.

    The published loaders store portrait images transposed, so that a batch has one shape.
    """
    return np.asarray(K)[[1, 0, 2]]


def transpose_pixels(pixels: Num[np.ndarray, "n 2"]) -> Num[np.ndarray, "n 2"]:
    """Pixels (column, row) in the transposed image."""
    return pixels[:, ::-1]


def _rotation_from_axis(ray: Float[np.ndarray, " 3"]) -> Float64[np.ndarray, "3 3"]:
    """The shortest rotation that takes the optical axis to a ray in front of the camera."""
    x, y, z = ray / np.linalg.norm(ray)
    cross = np.array([[0.0, 0.0, x], [0.0, 0.0, y], [-x, -y, 0.0]])
    return np.eye(3) + cross + cross @ cross / (1 + z)
