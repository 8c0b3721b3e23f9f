"""A matched pair at network size: small enough to be kept, and asked for single points."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .export._files import written_at_once
from .matching.descriptors import joint_descriptors
from .matching.gating import gate_from_pointmaps
from .pictures import matches_picture
from .two_view import PairMatch

_ARRAYS = ("left", "right", "xy1", "xy2", "fits", "guide1", "guide2")
_CYCLE_SIGMA_PX = 2.0


@dataclass(frozen=True, eq=False)
class Correspondence:
    """What two photos have in common, in network pixels, centres at half-integers.

    Attributes:
        names: of the photos.
        left: (H, W, 3) uint8.
        right: (H', W', 3) uint8.
        xy1, xy2: (N, 2) float32 matches, surest first.
        fits: (N,) bool, True where a match fits the motion of the camera.
        guide1: (H, W, D) float16 descriptors of the left photo's pixels, comparable with
            `guide2`; of networks without descriptors (H, W, 2) float32, where each pixel is in the
            other photo.
        guide2: the same of the right photo.
        motion: what is known of the motion of the camera, one line.
    """

    names: tuple[str, str]
    left: np.ndarray
    right: np.ndarray
    xy1: np.ndarray
    xy2: np.ndarray
    fits: np.ndarray
    guide1: np.ndarray
    guide2: np.ndarray
    motion: str

    @classmethod
    def of(
        cls, pair: PairMatch, K1: np.ndarray | None = None, K2: np.ndarray | None = None
    ) -> Correspondence:
        """Reduce a pair that `weav3r.match` made.

        Args:
            pair: the pair.
            K1, K2: (3, 3) intrinsics in original pixels, where they are known.

        Raises:
            ValueError: the pair has no result of the network.
        """
        if pair.result is None:
            raise ValueError("a pair needs the network's result; make it with weav3r.match")
        pose = pair.relative_pose(K1, K2)
        maps = pair.result.forward
        if maps.view1.descriptors is not None:
            guides = [d.half() for d in joint_descriptors(pair.result)]
        else:
            clouds = maps.view1.pointmap, maps.view2.pointmap
            gate = gate_from_pointmaps(*clouds, maps.view1.confidence)
            guides = [gate.expected2, gate.expected1]
        motion = pair.summary(K1, K2).splitlines()[1:]
        return cls(
            names=(pair.view1.name, pair.view2.name),
            left=pair.view1.rgb,
            right=pair.view2.rgb,
            xy1=pair.view1.ledger.points_to_network(pair.xy1).astype(np.float32),
            xy2=pair.view2.ledger.points_to_network(pair.xy2).astype(np.float32),
            fits=np.asarray(pose.inliers, dtype=bool),
            guide1=guides[0].cpu().numpy(),
            guide2=guides[1].cpu().numpy(),
            motion="; ".join(line.strip() for line in motion),
        )

    def summary(self) -> str:
        """Names, matches and those that fit, in one line."""
        first, second = self.names
        return f"{first} – {second}: {len(self.xy1)} matches, {int(self.fits.sum())} fit one motion"

    def find(self, x: float, y: float) -> tuple[float, float, float] | None:
        """Where a point of the left photo is in the right one, and how sure that is.

        Args:
            x, y: network pixels of the left photo.

        Returns:
            (x, y, certainty): the pixel of the right photo, and in [0, 1] how nearly the way there
            and back ends where it began; None outside of the photos.
        """
        height, width = self.left.shape[:2]
        if not (0 <= x < width and 0 <= y < height):
            return None
        there = self._step(self.guide1, self.guide2, int(x), int(y))
        if there is None:
            return None
        home = self._step(self.guide2, self.guide1, int(there[0]), int(there[1]))
        if home is None:
            return *there, 0.0
        off = np.hypot(home[0] - int(x) - 0.5, home[1] - int(y) - 0.5)
        return *there, float(np.exp(-0.5 * (off / _CYCLE_SIGMA_PX) ** 2))

    @staticmethod
    def _step(own: np.ndarray, other: np.ndarray, x: int, y: int) -> tuple[float, float] | None:
        """Where pixel (x, y) of one photo is in the other one: the centre of a pixel there."""
        height, width = other.shape[:2]
        if own.dtype == np.float16:
            similarity = other.reshape(height * width, -1).astype(np.float32) @ own[y, x]
            row, column = divmod(int(similarity.argmax()), width)
            return column + 0.5, row + 0.5
        found = own[y, x]
        inside = np.isfinite(found).all() and (found >= 0).all() and (found < (width, height)).all()
        return (float(found[0]), float(found[1])) if inside else None

    def picture(
        self,
        max_lines: int = 150,
        scale: int = 1,
        marked: tuple[tuple[float, float], tuple[float, float]] | None = None,
    ) -> Image.Image:
        """Both photos with lines between matches; see `pictures.matches_picture`."""
        return matches_picture(
            *(self.left, self.right, self.xy1, self.xy2, self.fits),
            max_lines=max_lines,
            scale=scale,
            marked=marked,
        )

    def save(self, path: Path) -> Path:
        """Write all of it as .npz."""
        meta = json.dumps({"names": self.names, "motion": self.motion})
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        with written_at_once(path) as temporary, temporary.open("wb") as file:
            np.savez(file, meta=np.array(meta), **arrays)
        return path

    @classmethod
    def load(cls, path: Path) -> Correspondence:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            meta = json.loads(str(archive["meta"][()]))
            arrays = {name: archive[name] for name in _ARRAYS}
        first, second = meta["names"]
        return cls(names=(first, second), motion=meta["motion"], **arrays)
