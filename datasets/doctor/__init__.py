"""The doctor of data sets: carries pixels between some views, and names what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..covisibility import overlap_by_depth, overlap_by_points
from ..layout import read_layout
from ..layouts import detect_layout, open_data_set
from ..posed_set import PosedSet
from .agreement import (
    DepthEvidence,
    colour_agreement,
    depth_evidence,
    point_evidence,
    try_with_depth,
    try_with_points,
)
from .arithmetic import check_files, check_poses, check_sizes, picture_sizes, some
from .conventions import AS_STORED, Convention, scale_words
from .findings import Diagnosis, Finding, Trial, ViewPictures
from .pictures import view_pictures
from .probes import SceneProbes, check_depth, read_probes

_BETTER, _MORE = 1.15, 0.05  # another reading must be better by this factor and this much
_CONSISTENT = 0.3  # agreement of what landed, below which nothing explains the numbers
_ODD = 0.4  # share of the usual agreement below which a scene or a view is odd
_SAME_COLOURS = 0.25  # correlation of brightness below which photos do not belong to their depth
_MINED = (0.1, 0.98)

_LEVELS = {"error": 0, "warning": 1, "note": 2}


def check_data_set(folder: Path | str, layout: str | None = None) -> Diagnosis:
    """Look a data set over: files, sizes, depth, and whether its views agree with each other.

    Args:
        folder: the data set, in any layout of `layouts.LAYOUTS`.
        layout: its name; None looks at the folder.

    Returns:
        What was found; also for a folder that cannot be read, with the reason as an error.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the layout is unknown, or the folder looks like none.
    """
    path = Path(folder)
    name = layout or detect_layout(path)
    try:
        data = read_layout(path, strict=False) if name == "weav3r" else open_data_set(path, name)
    except (FileNotFoundError, ValueError) as error:
        if str(error).startswith("unknown layout"):
            raise
        code = "missing-files" if isinstance(error, FileNotFoundError) else "unreadable"
        return Diagnosis(None, (Finding(code, "error", str(error)),))
    sizes = picture_sizes(data)
    findings = [*check_files(data, sizes), *check_poses(data), *check_sizes(data, sizes)]
    scenes, problems = read_probes(data)
    measured = [scene for scene in scenes if _has_depth(data, scene)]
    findings += [*problems, *check_depth(data, measured)]
    seen = _compare(data, scenes, measured)
    findings = _merged([*findings, *seen.findings])
    overlaps = _overlaps(data, scenes)
    mined = ((overlaps >= _MINED[0]) & (overlaps <= _MINED[1])).sum()
    if len(overlaps) and mined == 0 and not any(f.level == "error" for f in findings):
        message = f"none of {len(overlaps)} pairs of views sees enough of the same"
        findings.append(Finding("no-pairs", "warning", message, "take photos that overlap"))
    return Diagnosis(
        data,
        tuple(findings),
        _facts(data, scenes) | seen.facts,
        tuple(trial for _, trial in seen.trials),
        overlaps,
        int(mined),
        tuple(seen.pictures),
    )


def _merged(findings: list[Finding]) -> list[Finding]:
    """Errors first; of two with one code, one with both messages; no unit where scales differ."""
    found: dict[str, Finding] = {}
    scaled = any("-mm" in f.code or "scale" in f.code for f in findings)
    for finding in sorted(findings, key=lambda f: _LEVELS[f.level]):
        if finding.code == "unit" and scaled:
            continue
        first = found.get(finding.code)
        if first is not None and first.level == finding.level:
            both = f"{first.message}; {finding.message}"
            finding = dataclasses.replace(first, message=both)
        found.setdefault(finding.code, finding)
        if first is not None and first.level == finding.level:
            found[finding.code] = finding
    return list(found.values())


@dataclasses.dataclass
class _Seen:
    findings: list[Finding]
    facts: dict[str, str]
    trials: list[tuple[Convention, Trial]]
    pictures: list[ViewPictures]


def _has_depth(data: PosedSet, scene: SceneProbes) -> bool:
    """Whether there is more than points, whose depth follows from the poses."""
    given = any(data.views[probe.index].depth is not None for probe in scene.probes)
    return given or scene.scene in data.meshes


def _compare(
    data: PosedSet, scenes: Sequence[SceneProbes], measured: Sequence[SceneProbes]
) -> _Seen:
    """Carry pixels between views, or points into views, under every convention."""
    evidence = depth_evidence(measured)
    if evidence is not None:
        return _compare_depth(data, measured, evidence)
    pictures = view_pictures(data, scenes, AS_STORED, 1.0)
    found = [point_evidence(data, s.scene) for s in scenes if s.scene in data.points]
    known = [e for e in found if e is not None]
    if not known:
        return _Seen([], {}, [], pictures)
    tries = [try_with_points(e) for e in known]
    own = [e.score(AS_STORED) for e in known]
    worst = int(np.argmin(own))
    facts = {"agreement": f"{own[worst]:.2f} of 1 (points where they were measured)"}
    verdict = _verdict(tries[worst], own[worst], own[worst], "")
    return _Seen([*verdict], facts, tries[worst], pictures)


def _compare_depth(data: PosedSet, scenes: Sequence[SceneProbes], evidence: DepthEvidence) -> _Seen:
    agree, landed = evidence.agree(AS_STORED, np.ones(1))
    usual = float(agree[0][landed[0]].mean()) if landed.any() else 0.0
    facts = {"agreement": f"{usual:.2f} of 1 (depth of pixels carried into other views)"}
    trials, telling = try_with_depth(evidence)
    own = float(telling.agree(AS_STORED, np.ones(1))[0].mean())
    findings = [*_verdict(trials, own, _landed(telling, trials[0]), "")]
    best, trial = trials[0]
    if findings:
        where = _scenes_of(scenes, best, trial.scale)
        findings = [dataclasses.replace(finding, where=where) for finding in findings]
    else:
        best, trial = AS_STORED, Trial(AS_STORED.code, AS_STORED.text, 1.0, 0.0)
        findings += _odd_scenes(scenes, usual)
        findings += _odd_views(data, evidence, agree[0], landed[0])
        findings += _colours(evidence, facts)
    return _Seen(findings, facts, trials, view_pictures(data, scenes, best, trial.scale))


def _verdict(
    trials: Sequence[tuple[Convention, Trial]], own: float, landed: float, where: str
) -> Iterator[Finding]:
    """The finding that the best reading of the numbers amounts to; none if it is our own.

    Args:
        trials: best first.
        own: score of the numbers as stored.
        landed: agreement under the best reading of what lands on known depth.
        where: the scene, or "" for all.
    """
    convention, best = trials[0]
    names = (where,) if where else ()
    better = best.score > own * _BETTER and best.score > own + _MORE
    if landed < _CONSISTENT and (not better or best.score < _MORE * 2):
        yield Finding(
            "inconsistent",
            "error",
            f"views do not agree with each other (agreement {landed:.2f} of 1), and no convention "
            "that was tried explains it",
            "poses, depth and photos may come from different recordings or reconstructions",
            names,
        )
        return
    if not better or (convention is AS_STORED and best.scale == 1):
        return
    texts, advice, codes = [], [], []
    if best.scale != 1:
        code, text, cure = scale_words(best.scale)
        texts, advice, codes = [text], [cure], [code]
    if convention is not AS_STORED:
        texts.append(convention.text)
        advice.append(convention.advice)
        codes.append(convention.code)
    yield Finding(
        "+".join(codes),
        "error",
        f"{' and '.join(texts)}: read like this, the views agree to {best.score:.2f}, as "
        f"stored it is {own:.2f}",
        "; ".join(advice),
        names,
    )


def _landed(evidence: DepthEvidence, found: tuple[Convention, Trial]) -> float:
    agree, landed = evidence.agree(found[0], np.array([found[1].scale]))
    return float(agree[landed].mean()) if landed.sum() > 50 else 0.0


def _scenes_of(
    scenes: Sequence[SceneProbes], convention: Convention, scale: float
) -> tuple[str, ...]:
    """Scenes that agree better under a convention than as stored; empty if these are all."""
    better = []
    for scene in scenes:
        evidence = depth_evidence([scene])
        if evidence is not None:
            own = evidence.agree(AS_STORED, np.ones(1))[0].mean()
            if evidence.agree(convention, np.array([scale]))[0].mean() > own:
                better.append(scene.scene)
    return some(better) if len(better) < len(scenes) else ()


def _odd_scenes(scenes: Sequence[SceneProbes], usual: float) -> Iterator[Finding]:
    """Scenes that disagree while the others do not."""
    for scene in scenes:
        evidence = depth_evidence([scene])
        if len(scenes) < 2 or evidence is None:
            continue
        agree, landed = evidence.agree(AS_STORED, np.ones(1))
        if landed.sum() < 100 or agree[landed].mean() > _ODD * usual:
            continue
        trials, telling = try_with_depth(evidence)
        own = float(telling.agree(AS_STORED, np.ones(1))[0].mean())
        found = [*_verdict(trials, own, _landed(telling, trials[0]), scene.scene)]
        message = f"its views agree much less ({agree[landed].mean():.2f}) than those of others"
        yield from found or [Finding("odd-scene", "warning", message, where=(scene.scene,))]


def _odd_views(
    data: PosedSet, evidence: DepthEvidence, agree: np.ndarray, landed: np.ndarray
) -> Iterator[Finding]:
    """Views that disagree with all their partners while the others do not."""
    values = {}
    for k, probe in enumerate(evidence.probes):
        rows = landed & ((evidence.source == k) | (evidence.target == k))
        if rows.sum() >= 50:
            values[data.views[probe.index].key] = float(agree[rows].mean())
    if len(values) < 4:
        return
    median = float(np.median(list(values.values())))
    odd = [key for key, value in values.items() if value < _ODD * median]
    if odd:
        yield Finding(
            "odd-views",
            "warning",
            f"{len(odd)} of {len(values)} views agree much less with their partners than others",
            "their poses or depth may be wrong: look at them, or leave them out",
            some(odd),
        )


def _colours(evidence: DepthEvidence, facts: dict[str, str]) -> Iterator[Finding]:
    """Photos that do not belong to their depth and pose, although these two agree."""
    found = colour_agreement(evidence)
    if np.isnan(found):
        return
    facts["same colours"] = f"correlation {found:.2f} of brightness at the same places"
    if found >= _SAME_COLOURS:
        return
    turned = {
        flip: colour_agreement(evidence, flip=flip)
        for flip in ("upside-down", "mirrored", "half-turn")
    }
    best = max(turned, key=lambda flip: np.nan_to_num(turned[flip], nan=-1))
    meant = f"turned {best} they fit (correlation {turned[best]:.2f})"
    if not turned[best] > 2 * _SAME_COLOURS:
        meant = "photos may be shifted in time, in another order, or of another recording"
    yield Finding(
        "photos-do-not-fit",
        "error",
        f"depth and poses agree, but the photos show other things at the same places (correlation "
        f"of brightness {found:.2f})",
        meant,
    )


def _overlaps(data: PosedSet, scenes: Sequence[SceneProbes]) -> np.ndarray:
    """The smaller overlap of each pair of views that was read."""
    found = [np.zeros(0, np.float32)]
    for scene in scenes:
        names = [data.views[probe.index].name for probe in scene.probes]
        if any(len(probe.thin.z) for probe in scene.probes) and scene.scene not in data.points:
            matrix = overlap_by_depth([probe.thin for probe in scene.probes])
        elif scene.scene in data.points:
            matrix = overlap_by_points(data.points[scene.scene], names)
        else:
            continue
        found.append(np.minimum(matrix, matrix.T)[np.triu_indices(len(names), 1)])
    return np.concatenate(found)


def _facts(data: PosedSet, scenes: Sequence[SceneProbes]) -> dict[str, str]:
    probes = [probe for scene in scenes for probe in scene.probes]
    focal = np.array([view.K[0, 0] for view in data.views])
    facts = {
        "layout": data.layout,
        "photos": f"{len(data)} in {len(data.scenes)} scenes",
        "unit": data.unit,
        "splits": ", ".join(f"{k} {len(v)}" for k, v in data.splits.items()) or "none",
        "pairs": "none yet" if data.pairs is None else str(len(data.pairs)),
        "focal length": f"{np.median(focal):.5g} px (median)",
        "looked at": f"{len(probes)} photos of {len(scenes)} scenes",
    }
    depths = [probe.view.depth[probe.view.valid][::7] for probe in probes]
    known = np.concatenate([np.zeros(0, np.float32), *depths])
    if len(known):
        low, middle, high = np.percentile(known, [5, 50, 95])
        facts["depth"] = f"{low:.3g} to {high:.3g}, half of it beyond {middle:.3g}"
    return facts
