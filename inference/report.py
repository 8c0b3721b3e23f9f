"""What happened on the way from photos to a scene, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .images import ImageProblem


@dataclass(frozen=True)
class RejectedPair:
    """A pair of images whose evidence was not believed.

    Attributes:
        first, second: names of the images.
        reason: one clause.
    """

    first: str
    second: str
    reason: str


@dataclass(frozen=True)
class EdgeReport:
    """What a pair of images says of the cameras that came out.

    Attributes:
        first, second: indices of the images, first < second.
        matches: matches found between them.
        fitting: those within 4 px (at a long side of 640) of their epipolar lines.
        residual_px: median epipolar distance of those, original pixels; None without any.
    """

    first: int
    second: int
    matches: int
    fitting: int
    residual_px: float | None


@dataclass(frozen=True)
class SceneReport:
    """Account of a reconstruction.

    Attributes:
        images: names of the images that were loaded, in order.
        problems: files that were skipped, and warnings about used ones.
        pairs: (i, j) indices into `images` of the pairs that support the result.
        rejected: pairs that were looked at and not believed.
        edges: how well the matches of each pair fit the result; empty where none were made.
        components: groups of image names that share one world frame, largest first; an image that
            was joined with no other is a group of its own.
        timings_s: seconds per stage, in the order of the stages.
        warnings: sentences about the result as a whole.
        model: name or path of the network.
        settings: options of the run, as plain values.
    """

    images: list[str] = field(default_factory=list)
    problems: list[ImageProblem] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    rejected: list[RejectedPair] = field(default_factory=list)
    edges: list[EdgeReport] = field(default_factory=list)
    components: list[list[str]] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def unregistered(self) -> list[str]:
        """Names of the images that were joined with no other; none for a single image."""
        if len(self.images) == 1 and self.components:
            return []
        placed = {name for group in self.components if len(group) > 1 for name in group}
        return [name for name in self.images if name not in placed]

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `json.dumps` accepts when `settings` does; see `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SceneReport:
        """Inverse of `to_dict`, also after a way through JSON; unknown keys are ignored."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        if "problems" in known:
            known["problems"] = [ImageProblem(**p) for p in known["problems"]]
        if "rejected" in known:
            known["rejected"] = [RejectedPair(**r) for r in known["rejected"]]
        if "edges" in known:
            known["edges"] = [EdgeReport(**e) for e in known["edges"]]
        if "pairs" in known:
            known["pairs"] = [(int(i), int(j)) for i, j in known["pairs"]]
        return cls(**known)

    def __getitem__(self, key: str) -> Any:
        if key not in self.__dataclass_fields__:
            raise KeyError(f"no such entry: {key!r}; there are {', '.join(self.keys())}")
        return getattr(self, key)

    def keys(self) -> list[str]:
        """Names of the entries, so that `dict(report)` works."""
        return list(self.__dataclass_fields__)

    def summary(self, limit: int = 10) -> str:
        """Text of a few lines; long lists are cut to `limit` entries."""
        placed = len(self.images) - len(self.unregistered)
        lines = [f"{placed} of {len(self.images)} images placed, from {len(self.pairs)} pairs"]
        if len(self.components) > 1:
            sizes = ", ".join(str(len(group)) for group in self.components)
            lines.append(f"{len(self.components)} separate groups (images: {sizes})")
        lines += _listing("not placed", self.unregistered, limit)
        skipped = [str(p) for p in self.problems if p.skipped]
        lines += _listing("skipped files", skipped, limit)
        lines += _listing("notes on files", [str(p) for p in self.problems if not p.skipped], limit)
        rejected = [f"{r.first} - {r.second}: {r.reason}" for r in self.rejected]
        lines += _listing("rejected pairs", rejected, limit)
        lines += _listing("warnings", self.warnings, limit)
        if self.timings_s:
            stages = ", ".join(
                f"{name} {seconds:.1f} s" for name, seconds in self.timings_s.items()
            )
            lines.append(f"time: {stages}; in all {sum(self.timings_s.values()):.1f} s")
        if self.model:
            lines.append(f"model: {self.model}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()


def _listing(title: str, entries: list[str], limit: int) -> list[str]:
    if not entries:
        return []
    shown = [f"  {entry}" for entry in entries[:limit]]
    if len(entries) > limit:
        shown.append(f"  ... and {len(entries) - limit} more")
    return [f"{title} ({len(entries)}):", *shown]
