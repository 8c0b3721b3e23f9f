"""Judge one's own photos: reconstruct them, score the agreement, say it in plain language."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..inference._sources import list_sources
from ..inference.defaults import inference_defaults
from ..inference.images import View, load_images
from ..inference.job.evidence import PairEvidence, PairReader
from ..inference.job.folder import Job
from ..inference.job.planner import MANY_VIEWS
from ..inference.job.store import JobStore
from ..inference.matching.descriptors import MatchingOptions
from ..inference.pipeline import reconstruct
from ..inference.scene import Scene
from ..models.two_view import TwoViewModel
from .self_consistency import (
    DOUBTFUL,
    GOOD,
    PairScore,
    PhotoScore,
    score_pairs,
    score_photos,
)
from .tables import markdown_table

FEW_VIEWS = 4
_SHARP_PX, _BLUNT_PX = 2.0, 4.0  # reprojection, at a long side of 640
_AGREES, _DISAGREES = 0.6, 0.35  # share of depths that agree

_LISTED = 60  # pairs in the Markdown, the worst first; the JSON has all


@dataclass(frozen=True)
class Verdict:
    """A judgement in plain language.

    Attributes:
        level: "good", "doubtful" or "bad".
        reason: what it rests on, one clause.
    """

    level: str
    reason: str


@dataclass(frozen=True)
class SelfConsistency:
    """How far a set of photos agrees with itself. No number here knows the truth.

    Attributes:
        model: name of the network.
        photos: score and verdict of each.
        pairs: score and verdict of each that was compared.
        groups: number of photos in each group of the reconstruction.
        connected: share of the pairs that are good.
        cycle_rotation_deg, cycle_direction_deg: medians over the pairs that have triangles.
        reprojection_px: median over the photos, at a long side of 640.
        depth_agreement: median over the photos.
        verdict: of the whole.
        warnings: of the reconstruction.
    """

    model: str
    photos: tuple[tuple[PhotoScore, Verdict], ...]
    pairs: tuple[tuple[PairScore, Verdict], ...]
    groups: tuple[int, ...]
    connected: float
    cycle_rotation_deg: float | None
    cycle_direction_deg: float | None
    reprojection_px: float | None
    depth_agreement: float | None
    verdict: Verdict
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Everything as JSON."""
        data = asdict(self)
        for key in ("photos", "pairs"):
            data[key] = [{**score, "verdict": verdict} for score, verdict in data[key]]
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Verdicts and tables; of many pairs the worst."""
        return _markdown(self)

    def write(self, folder: Path | str) -> tuple[Path, Path]:
        """Write self-consistency.json and self-consistency.md into a folder (made if missing)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "self-consistency.json", folder / "self-consistency.md"
        paths[0].write_text(self.to_json(), encoding="utf-8")
        paths[1].write_text(self.to_markdown(), encoding="utf-8")
        return paths


def judge_photos(
    photos: Any,
    model: TwoViewModel,
    *,
    size: int | None = None,
    job: str | Path | None = None,
    progress: bool | Callable[[str, int, int], None] = False,
    **options: Any,
) -> SelfConsistency:
    """Reconstruct photos and score how far they agree with themselves.

    Args:
        photos: as for `reconstruct`.
        model: the network.
        size: long side of its input; default: the best measured for the model.
        job: folder that remembers the work, as for `reconstruct`.
        progress: likewise.
        **options: further options of `reconstruct`, but for `matching` and `precision`.

    Raises:
        FileNotFoundError: a photo or folder does not exist.
        ValueError: fewer than two photos are usable.
    """
    size = inference_defaults(model).size if size is None else size
    views = load_images(list_sources(photos), size, model.config.patch_size).views
    if len(views) < 2:
        raise ValueError(f"agreement needs at least two usable photos, got {len(views)}")
    few = len(views) <= FEW_VIEWS
    matching = MatchingOptions() if few else MatchingOptions(step=6, search_stride=3)
    with TemporaryDirectory(prefix="weav3r-judge-") as temporary:
        store = JobStore(temporary if job is None else job)
        scene = reconstruct(
            *(photos, model),
            size=size,
            matching=matching,
            job=store,
            progress=progress,
            **options,
        )
        evidence = _evidence(store, model, views, scene, matching)
        pairs = score_pairs(views, evidence, scene)
    return judge(scene, pairs)


def _evidence(
    store: JobStore,
    model: TwoViewModel,
    views: list[View],
    scene: Scene,
    matching: MatchingOptions,
) -> list[PairEvidence]:
    """Read the compared pairs from the job folder, where the reconstruction left them."""
    number = {name: i for i, name in enumerate(scene.images)}
    pairs = {(min(pair), max(pair)) for pair in scene.report.pairs}
    for refused in scene.report.rejected:
        i, j = sorted((number[refused.first], number[refused.second]))
        pairs.add((i, j))
    keep = torch.float16 if len(views) >= MANY_VIEWS else None
    reader = PairReader(
        views, matching if model.config.descriptor_dim else None, False, model.device
    )
    work = Job(store, model, views, "float32", keep, 1)
    return list(work.evidence(sorted(pair for pair in pairs if pair[0] != pair[1]), reader))


def judge(scene: Scene, pairs: Sequence[PairScore]) -> SelfConsistency:
    """Turn the scores of a reconstruction into verdicts."""
    photos = score_photos(scene, pairs)
    judged_photos = tuple((photo, _judge_photo(photo)) for photo in photos)
    connected = float(np.mean([pair.score >= GOOD for pair in pairs])) if pairs else 0.0
    groups = tuple(sorted(map(len, scene.components), reverse=True))
    return SelfConsistency(
        model=scene.report.model,
        photos=judged_photos,
        pairs=tuple((pair, judge_pair(pair)) for pair in pairs),
        groups=groups,
        connected=connected,
        cycle_rotation_deg=_median([pair.cycle_rotation_deg for pair in pairs]),
        cycle_direction_deg=_median([pair.cycle_direction_deg for pair in pairs]),
        reprojection_px=_median([photo.reprojection_px for photo in photos]),
        depth_agreement=_median([photo.depth_agreement for photo in photos]),
        verdict=_judge_all([verdict for _, verdict in judged_photos], groups),
        warnings=tuple(scene.report.warnings),
    )


def judge_pair(pair: PairScore) -> Verdict:
    """Say how far the relative pose of a pair is to be believed, and why not."""
    if pair.score >= GOOD:
        tail = f"; {pair.caveat}" if pair.caveat else ""
        if pair.one_motion is None:
            return Verdict("good", f"both directions of decoding agree{tail}")
        return Verdict("good", f"{pair.one_motion:.0%} of {pair.matches} matches agree{tail}")
    weak = _weak_points(pair)
    reason = min(weak, key=lambda text: weak[text])
    return Verdict("doubtful" if pair.score >= DOUBTFUL else "bad", reason)


def _weak_points(pair: PairScore) -> dict[str, float]:
    """What may be wrong with a pair -> 0 (surely) to 1."""
    weak = {}
    if pair.one_motion is not None and pair.both_directions is not None:
        one, both = pair.one_motion, pair.both_directions
        weak[f"only {one:.0%} of {pair.matches} matches fit one camera motion"] = one
        weak[f"only {both:.0%} of the matches are found in both directions"] = both
    else:
        gap = "far" if pair.pointmap_gap is None else f"{pair.pointmap_gap:.0%}"
        weak[f"the two directions of decoding are {gap} apart"] = 0.5
    if pair.cycle_rotation_deg is not None and pair.cycle_direction_deg is not None:
        worst = max(pair.cycle_rotation_deg, pair.cycle_direction_deg)
        reason = f"the way round over a third photo misses by {worst:.0f} degrees"
        weak[reason] = float(np.exp(-worst / 5))
    return weak


def _judge_photo(photo: PhotoScore) -> Verdict:
    if photo.group is None or photo.good_pairs == 0 and photo.tracks == 0:
        return Verdict("bad", "no place found: it shares too little with the other photos")
    bad, doubts = [], []
    if photo.good_pairs == 0:
        bad.append("no pair with it is good")
    elif photo.good_pairs == 1 and photo.pairs > 2:
        doubts.append("one good pair only holds it")
    if photo.reprojection_px is not None and photo.reprojection_px > _SHARP_PX:
        text = f"its points miss by {photo.reprojection_px:.1f} px"
        (bad if photo.reprojection_px > _BLUNT_PX else doubts).append(text)
    if photo.depth_agreement is not None and photo.depth_agreement < _AGREES:
        text = f"only {photo.depth_agreement:.0%} of the other photos' depths agree with its own"
        (bad if photo.depth_agreement < _DISAGREES else doubts).append(text)
    if bad:
        return Verdict("bad", "; ".join(bad + doubts))
    if doubts:
        return Verdict("doubtful", "; ".join(doubts))
    return Verdict("good", f"{photo.good_pairs} of {photo.pairs} pairs with it are good")


def _judge_all(verdicts: Sequence[Verdict], groups: Sequence[int]) -> Verdict:
    good = sum(verdict.level == "good" for verdict in verdicts)
    text = f"{good} of {len(verdicts)} photos are good"
    if len(groups) > 1:
        text += f"; they fall into {len(groups)} groups that nothing joins"
    bad = sum(verdict.level == "bad" for verdict in verdicts)
    if not groups or 2 * bad > len(verdicts):
        return Verdict("bad", text + ": take more photos that overlap by two thirds")
    whole = good >= 0.8 * len(verdicts) and len(groups) == 1
    return Verdict("good" if whole else "doubtful", text)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


_NOTE = (
    "No number here knows the truth: agreement is no proof, disagreement is one. Distances are at "
    "a long side of 640 pixels. Score of a pair: geometric mean of the share of matches that fit "
    "one motion, the share found in both directions, and exp(-gap / 5 deg) around its triangles; "
    f"good from {GOOD:g}, doubtful from {DOUBTFUL:g}."
)


def _markdown(report: SelfConsistency) -> str:
    facts = [
        ("photos in groups", ", ".join(map(str, report.groups)) or "none"),
        ("good pairs", f"{report.connected:.0%}"),
        ("gap around triangles, rotation", _text(report.cycle_rotation_deg, "{:.2f} deg")),
        ("gap around triangles, direction", _text(report.cycle_direction_deg, "{:.2f} deg")),
        ("reprojection", _text(report.reprojection_px, "{:.2f} px")),
        ("depths that agree", _text(report.depth_agreement, "{:.0%}")),
    ]
    photos = [
        [
            _cell(photo.name),
            verdict.level,
            _cell(verdict.reason),
            f"{photo.good_pairs}/{photo.pairs}",
            _text(photo.reprojection_px, "{:.2f}"),
            _text(photo.depth_agreement, "{:.0%}"),
            _text(photo.expected_error, "{:.1%}"),
        ]
        for photo, verdict in report.photos
    ]
    worst = sorted(report.pairs, key=lambda pair: pair[0].score)[:_LISTED]
    pairs = [
        [
            _cell(pair.first),
            _cell(pair.second),
            verdict.level,
            _cell(verdict.reason),
            f"{pair.score:.2f}",
            str(pair.matches),
            _text(pair.one_motion, "{:.0%}"),
            _text(pair.both_directions, "{:.0%}"),
            _text(pair.fit_px, "{:.2f}"),
            _text(pair.cycle_rotation_deg, "{:.1f}"),
            _text(pair.cycle_direction_deg, "{:.1f}"),
            _text(pair.pointmap_rotation_deg, "{:.0f}"),
            _text(pair.pointmap_gap, "{:.0%}"),
        ]
        for pair, verdict in worst
    ]
    more = len(report.pairs) - len(worst)
    parts = [
        "# Self-consistency of the photos",
        f"**{report.verdict.level}**: {report.verdict.reason}.",
        _NOTE,
        markdown_table(("of the whole", "median"), facts),
        "## Photos",
        markdown_table(_PHOTO_COLUMNS, photos),
        "## Pairs, the worst first" + (f" ({more} better ones left out)" if more else ""),
        markdown_table(_PAIR_COLUMNS, pairs),
    ]
    parts += ["## Warnings", *(f"* {_cell(text)}" for text in report.warnings)] * bool(
        report.warnings
    )
    return "\n\n".join(parts) + "\n"


_PHOTO_COLUMNS = (
    "photo",
    "verdict",
    "because",
    "good pairs",
    "reprojection px",
    "depths agree",
    "expected error",
)
_PAIR_COLUMNS = (
    "photo",
    "photo",
    "verdict",
    "because",
    "score",
    "matches",
    "one motion",
    "both directions",
    "fit px",
    "gap rot. deg",
    "gap dir. deg",
    "pointmaps rot. deg",
    "pointmaps gap",
)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _cell(text: str) -> str:
    """Text from outside for one cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
