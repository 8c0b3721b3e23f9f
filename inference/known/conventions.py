"""Wrong conventions in what the user says about the cameras, called by their names.

First by arithmetic alone, before any work; what arithmetic cannot see (an inverse pose is a valid
pose) is tested afterwards against matches, see `evidence`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_ORTHONORMAL = 1e-3  # off by more than float32 arithmetic explains
_CENTRAL = 0.12  # principal points lie this near the centre, in shares of the side
_WIDEST_LENS = 0.2  # focal length over the long side; below (136 degrees) no pinhole sees
_MILLIMETRES = (2.0, 1200.0)  # focal lengths of lenses that exist


class ConventionError(ValueError):
    """A given value follows another convention than it should.

    Attributes:
        convention: short name of what was recognised, such as "opengl".
    """

    def __init__(self, convention: str, message: str) -> None:
        super().__init__(message)
        self.convention = convention


def check_pose(pose: ArrayLike, name: str) -> np.ndarray:
    """A given `cam_from_world` as a (4, 4) float64 matrix.

    Args:
        pose: (4, 4) or (3, 4) matrix, or (6,): a rotation vector in radians and a translation.
        name: the view, for the message.

    Raises:
        ConventionError: it is transposed, scaled, left-handed, no rotation, or in degrees.
        ValueError: another shape, or not finite.
    """
    given = np.array(pose, dtype=np.float64)
    if given.shape not in ((4, 4), (3, 4), (6,)):
        raise ValueError(
            f"{name}: cam_from_world must be a (4, 4) or (3, 4) matrix, or 6 numbers (rotation "
            f"vector in radians, translation), got shape {given.shape}"
        )
    if not np.isfinite(given).all():
        raise ValueError(f"{name}: cam_from_world has entries that are not finite")
    if given.shape == (6,):
        return pose_from_vector(given, name)
    if given.shape == (3, 4):
        given = np.vstack([given, [0.0, 0.0, 0.0, 1.0]])
    if not np.allclose(given[3], [0, 0, 0, 1], rtol=0, atol=1e-6):
        if np.allclose(given[:, 3], [0, 0, 0, 1], rtol=0, atol=1e-6):
            raise ConventionError(
                "transposed pose",
                f"{name}: cam_from_world is transposed: its translation {_short(given[3, :3])} "
                "stands in the last row; give the transpose, so that x_cam = cam_from_world @ "
                "x_world",
            )
        raise ValueError(
            f"{name}: the last row of cam_from_world must be (0, 0, 0, 1), got {_short(given[3])}"
        )
    _check_rotation(given[:3, :3], name)
    return given


def pose_from_vector(vector: np.ndarray, name: str) -> np.ndarray:
    """(4, 4) pose of a rotation vector in radians and a translation, (6,).

    Raises:
        ConventionError: the angle is more than a full turn, as of degrees.
    """
    angle = float(np.linalg.norm(vector[:3]))
    if angle > 2 * np.pi:
        raise ConventionError(
            "degrees",
            f"{name}: the rotation vector of cam_from_world has length {angle:.4g}, more than a "
            f"full turn in radians, so it is in degrees; multiply it by pi / 180 = {np.pi / 180:g}",
        )
    axis = vector[:3] / max(angle, 1e-300)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    pose = np.eye(4)
    pose[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    pose[:3, 3] = vector[3:]
    return pose


def _check_rotation(rotation: np.ndarray, name: str) -> None:
    determinant = float(np.linalg.det(rotation))
    scale = float(np.cbrt(abs(determinant)))
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error <= _ORTHONORMAL and determinant > 0:
        return
    unit = rotation / max(scale, 1e-12)
    orthonormal = np.abs(unit @ unit.T - np.eye(3)).max() <= _ORTHONORMAL
    if orthonormal and determinant < 0:
        raise ConventionError(
            "left-handed",
            f"{name}: cam_from_world is left-handed: the determinant of its 3x3 part is "
            f"{determinant:.4g}, a mirror image and no rotation; reverse one axis of the world or "
            "camera frame (Unity, Unreal and DirectX count left-handed; ours is x right, y down, "
            "z forward)",
        )
    if orthonormal:
        raise ConventionError(
            "scaled pose",
            f"{name}: the 3x3 part of cam_from_world is a rotation times {scale:.6g}; divide it "
            f"by {scale:.6g} (and the translation as well, if the whole matrix was scaled)",
        )
    raise ConventionError(
        "not a rotation",
        f"{name}: the 3x3 part of cam_from_world is no rotation: its rows are off orthonormal by "
        f"{error:.3g}; give a rigid pose, without shear, intrinsics or unequal scales in it",
    )


def check_K(K: ArrayLike, size: tuple[int, int], name: str) -> np.ndarray:
    """Given intrinsics as a (3, 3) float64 matrix for an image of `size` (height, width).

    Raises:
        ConventionError: K is transposed, in OpenGL axes, normalised, for another image size, for
            swapped width and height, or has its focal length in millimetres.
        ValueError: another shape, not finite, or with skew.
    """
    matrix = np.array(K, dtype=np.float64)
    if matrix.shape != (3, 3):
        raise ValueError(f"{name}: K must be a (3, 3) matrix, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name}: K has entries that are not finite")
    if np.any(matrix[2, :2]) and not np.any(matrix[:2, 2]):
        raise ConventionError(
            "transposed K",
            f"{name}: K is transposed: the principal point {_short(matrix[2, :2])} stands in its "
            "last row; give K.T, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]",
        )
    if matrix[2, 2] == -1 or (matrix[0, 0] > 0) != (matrix[1, 1] > 0):
        raise ConventionError(
            "opengl",
            f"{name}: K has the signs of OpenGL axes (y up, z backward): diagonal "
            f"{_short(matrix.diagonal())}; give positive focal lengths and OpenCV axes",
        )
    if matrix[1, 0] != 0 or not np.array_equal(matrix[2], [0, 0, 1]) or matrix[0, 0] <= 0:
        raise ValueError(
            f"{name}: K must look like [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive focal "
            f"lengths, got {matrix.tolist()}"
        )
    if matrix[0, 1] != 0:
        raise ValueError(f"{name}: K has a skew of {matrix[0, 1]:g}; only pinholes without skew")
    _check_principal_point(matrix, size, name)
    check_focal(float(np.sqrt(matrix[0, 0] * matrix[1, 1])), size, name)
    return matrix


def check_focal(focal_px: float, size: tuple[int, int], name: str) -> float:
    """A given focal length in pixels of an image of `size` (height, width).

    Raises:
        ConventionError: it looks like millimetres, or like a share of the image size.
        ValueError: not positive and finite.
    """
    focal, long_side = float(focal_px), max(size)
    if not (np.isfinite(focal) and focal > 0):
        raise ValueError(f"{name}: the focal length must be positive, got {focal_px}")
    if focal >= _WIDEST_LENS * long_side:
        return focal
    if focal < _MILLIMETRES[0]:
        raise ConventionError(
            "normalised focal",
            f"{name}: a focal length of {focal:g} px cannot be for an image of {long_side} px; as "
            f"a share of the image size it would be {focal * long_side:.6g} px",
        )
    raise ConventionError(
        "focal in mm",
        f"{name}: a focal length of {focal:g} px in an image of {long_side} px would see more than "
        f"136 degrees, so it is likely in millimetres; a 35 mm-equivalent of {focal:g} mm is "
        f"{focal * long_side / 36:.6g} px; otherwise multiply by {long_side} px / sensor width",
    )


def _check_principal_point(K: np.ndarray, size: tuple[int, int], name: str) -> None:
    height, width = size
    cx, cy = K[0, 2], K[1, 2]
    factor_x, factor_y = 2 * cx / width, 2 * cy / height
    if max(abs(factor_x - 1), abs(factor_y - 1)) <= 2 * _CENTRAL:
        return
    if 0 < cx <= 1 and 0 < cy <= 1 and K[0, 0] < 20:
        raise ConventionError(
            "normalised K",
            f"{name}: K is in shares of the image size (principal point {cx:g}, {cy:g}); multiply "
            f"its first row by {width} and its second by {height}",
        )
    swapped = max(abs(2 * cx / height - 1), abs(2 * cy / width - 1))
    if height != width and swapped <= _CENTRAL:
        raise ConventionError(
            "swapped width and height",
            f"{name}: K is for swapped width and height: its principal point ({cx:g}, {cy:g}) is "
            f"the centre of a {2 * cx:.0f}x{2 * cy:.0f} image, the upright photo has "
            f"{width}x{height}; turn K with the photo (Weav3R applies the EXIF rotation)",
        )
    factor = (factor_x + factor_y) / 2
    if abs(factor_x - factor_y) <= _CENTRAL * factor:
        raise size_error(name, "K", (2 * cy, 2 * cx), size)
    if not (0 <= cx <= width and 0 <= cy <= height):
        raise ConventionError(
            "wrong image size",
            f"{name}: the principal point ({cx:g}, {cy:g}) of K lies outside the photo of "
            f"{width}x{height}; K must be for the whole original photo, not for a crop of it",
        )


def check_size(given: tuple[int, int], size: tuple[int, int], what: str, name: str) -> None:
    """Check that `what` was made for an image of the photo's size, both (height, width).

    Raises:
        ConventionError: it was made for another size.
    """
    if tuple(given) == tuple(size):
        return
    if tuple(given) == (size[1], size[0]):
        raise ConventionError(
            "swapped width and height",
            f"{name}: {what} is for swapped width and height: {given[1]}x{given[0]}, the upright "
            f"photo has {size[1]}x{size[0]} (width x height); swap them, or turn {what} with the "
            "photo if it relies on an EXIF rotation",
        )
    raise size_error(name, what, given, size)


def size_error(
    name: str, what: str, given: tuple[float, float], size: tuple[int, int]
) -> ConventionError:
    """The error for something made for an image of (height, width) `given` instead of `size`."""
    factors = size[1] / given[1], size[0] / given[0]
    same = abs(factors[0] / factors[1] - 1) < 0.02
    factor = f"{factors[0]:.4g}" if same else f"{factors[0]:.4g} (x) and {factors[1]:.4g} (y)"
    return ConventionError(
        "wrong image size",
        f"{name}: {what} is for another image size: about {given[1]:.0f}x{given[0]:.0f}, the photo "
        f"has {size[1]}x{size[0]} (width x height); "
        f"{'scale it' if what != 'K' else 'multiply its first two rows'} by {factor}, or give the "
        "photos that it was made for",
    )


def check_depth(depth: ArrayLike, size: tuple[int, int], metric: bool, name: str) -> np.ndarray:
    """A given depth map as (H, W) float32 in the photo's size, NaN where unknown.

    Raises:
        ConventionError: another size, or integers that can only be millimetres.
        ValueError: not two-dimensional, or nothing in it is a depth.
    """
    given = np.asarray(depth)
    if given.ndim != 2:
        raise ValueError(f"{name}: the depth must be an (H, W) map, got shape {given.shape}")
    check_size((given.shape[0], given.shape[1]), size, "the depth map", name)
    values = given.astype(np.float32)
    known = np.isfinite(values) & (values > 0)
    if not known.any():
        raise ValueError(f"{name}: the depth map holds no positive number")
    middle = float(np.median(values[known]))
    if metric and np.issubdtype(given.dtype, np.integer) and middle >= 100:
        raise ConventionError(
            "millimetres",
            f"{name}: the depth map holds integers around {middle:g}, millimetres by the look of "
            "it, where metres are expected; divide by 1000",
        )
    return np.where(known, values, np.float32(np.nan))


def _short(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
