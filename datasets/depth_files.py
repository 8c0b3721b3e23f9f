"""Depth maps in the file formats that data sets use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image, UnidentifiedImageError

from .exr import read_exr

DEPTH_SUFFIXES = (".npy", ".npz", ".png", ".exr", ".pfm", ".bin")


@dataclass(frozen=True)
class DepthFile:
    """A stored depth map and how to read it.

    Attributes:
        path: .npy; .npz (the array "depth", or the only one); .png with 16 bits; .exr; .pfm; .bin
            as COLMAP's stereo writes it.
        scale: the data set's unit for each stored number; 0.001 for millimetres in a metric set.
        far: depths beyond, in the data set's unit, are unknown; None = no limit.
    """

    path: Path
    scale: float = 1.0
    far: float | None = None

    def read(self) -> Float32[np.ndarray, "h w"]:
        """z in the data set's unit; 0 where unknown, negative in the sky.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: it is damaged or no depth map.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"the depth map {self.path} does not exist")
        stored = _read(self.path)
        if stored.ndim == 3 and stored.shape[-1] == 1:
            stored = stored[..., 0]
        if stored.ndim != 2:
            raise ValueError(f"{self.path}: a depth map has shape (H, W), this one {stored.shape}")
        depth = np.nan_to_num(stored.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        depth = depth * np.float32(self.scale)
        return depth if self.far is None else np.where(depth > self.far, np.float32(0), depth)


def _read(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".exr":
        return read_exr(path)
    if suffix == ".pfm":
        return read_pfm(path)
    if suffix == ".bin":
        return read_colmap_array(path)
    try:
        if suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                names = arrays.files
                return arrays["depth" if "depth" in names or not names else names[0]]
        if suffix == ".png":
            with Image.open(path) as image:
                return np.asarray(image)
    except (UnidentifiedImageError, OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} is no readable depth map: {error}") from error
    raise ValueError(f"{path}: a depth map is one of {', '.join(DEPTH_SUFFIXES)}")


def read_pfm(path: Path) -> Float32[np.ndarray, "h w"]:
    """Read a portable float map; its rows are stored from the bottom up."""
    data = path.read_bytes()
    head = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+([-+.\deE]+)\s", data)
    if head is None:
        raise ValueError(f"{path} is no portable float map with one channel")
    width, height, scale = int(head[1]), int(head[2]), float(head[3])
    values = np.frombuffer(data[head.end() :], dtype="<f4" if scale < 0 else ">f4")
    if values.size != width * height:
        raise ValueError(f"{path}: expected {width}x{height} numbers, found {values.size}")
    return values.reshape(height, width)[::-1].astype(np.float32)


def read_colmap_array(path: Path) -> Float32[np.ndarray, "h w"]:
    """Read a depth map of COLMAP's patch-match stereo: "width&height&1&", then float32."""
    data = path.read_bytes()
    head = re.match(rb"(\d+)&(\d+)&(\d+)&", data)
    if head is None or int(head[3]) != 1:
        raise ValueError(f"{path} is no depth map of COLMAP")
    width, height = int(head[1]), int(head[2])
    values = np.frombuffer(data[head.end() :], dtype="<f4")
    if values.size != width * height:
        raise ValueError(f"{path}: expected {width}x{height} numbers, found {values.size}")
    return values.reshape(height, width).copy()
