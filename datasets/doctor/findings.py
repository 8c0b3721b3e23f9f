"""What the doctor of data sets says: findings, and all of them with the numbers behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from ..posed_set import PosedSet

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        code: short name, such as "inverse-poses".
        level: an "error" makes the data set unfit for training; a "warning" may.
        message: what is wrong, with numbers.
        advice: what was probably meant, and what to do.
        where: views or files, the first few.
    """

    code: str
    level: Level
    message: str
    advice: str = ""
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """How well the views agree under one reading of the numbers.

    Attributes:
        code: of the convention; "as-stored" for the data set's own.
        text: the convention in words.
        scale: factor of the depth at which they agree best.
        score: 0 to 1; mean agreement of pixels carried into other views.
    """

    code: str
    text: str
    scale: float
    score: float


@dataclass(frozen=True, eq=False)
class ViewPictures:
    """Pictures of one view for the report, (H, W, 3) uint8 each, and a caption."""

    caption: str
    pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Everything that the doctor found.

    Attributes:
        data: what was looked at; None when it could not be opened.
        findings: errors first.
        facts: numbers about the data set, in words.
        trials: conventions that were tried, best first.
        overlaps: the smaller overlap of each pair of views that was looked at.
        minable: how many of these pairs `weav3r data pairs` would keep.
        views: pictures.
    """

    data: PosedSet | None
    findings: tuple[Finding, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    overlaps: Float32[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.float32))
    minable: int = 0
    views: tuple[ViewPictures, ...] = ()

    @property
    def passed(self) -> bool:
        """True without any error."""
        return all(finding.level != "error" for finding in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """Short names of the errors."""
        return tuple(f.code for f in self.findings if f.level == "error")
