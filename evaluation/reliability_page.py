"""The reliability diagrams as one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reliability import Reliability, ReliabilityGroup, ReliabilityReport

_SIDE_PX, _MARGIN_PX = 360, 46
_LOWEST, _HIGHEST = 0.005, 1.0  # of both axes, logarithmic
_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d9dee7; --card: #fff;
  --page: #f5f6f8; --accent: #2468c9; --plain: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #333c4a;
  --card: #1b212b; --page: #12161d; --accent: #6ea8fe; --plain: #fb923c; } }
body { margin: 0 auto; padding: 24px; max-width: 1000px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 28px 0 8px; }
.soft { color: var(--soft); } .row { display: flex; flex-wrap: wrap; gap: 16px; }
svg { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
table { border-collapse: collapse; background: var(--card); font-size: 13px; }
th, td { border: 1px solid var(--line); padding: 3px 8px; text-align: right;
  font-variant-numeric: tabular-nums; }
"""


def reliability_page(report: ReliabilityReport) -> str:
    """Draw a diagram and a table for every group of a report."""
    calibrated = report.calibration is not None
    state = "calibrated in this run" if report.fitted else "its own calibration"
    intro = (
        f"Model {escape(report.model)}, {state if calibrated else 'not calibrated'}. Each dot is a "
        "tenth of the pixels, by rising predicted error; on the dashed line predicted and observed "
        "errors are equal. Medians of |estimate - truth| / truth after one factor (a "
        "median, too) for each group of cameras. Orange is the plain confidence, read as k / "
        "confidence; blue the calibrated expected error."
    )
    body = "".join(_group(group) for group in report.groups)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Reliability of the confidence</title><style>{_STYLE}</style></head><body>"
        f'<h1>Reliability of the confidence</h1><p class="soft">{intro}</p>{body}</body></html>\n'
    )


def _group(group: ReliabilityGroup) -> str:
    error = "not calibrated"
    if group.after is not None:
        error = (
            f"{group.after.calibration_error:.3f} after, when {group.after.covered:.0%} lie below"
        )
    line = (
        f"{len(group.scenes)} scenes, median error {group.median_error:.3f}; expected calibration "
        f"error {group.before.calibration_error:.3f} before, {error}"
    )
    tables = [_table("before", group.before)]
    if group.after is not None:
        tables.append(_table("after", group.after))
    title = f"{escape(group.name)}, road {escape(group.road)}"
    return (
        f'<h2>{title}</h2><p class="soft">{line}</p>'
        f'<div class="row">{diagram(group, title)}{"".join(tables)}</div>'
    )


def diagram(group: ReliabilityGroup, title: str) -> str:
    """Draw predicted against observed error as SVG, both axes logarithmic."""
    low, high = _at(_LOWEST), _at(_HIGHEST)
    parts = []
    for tick in _TICKS:
        x, y = _MARGIN_PX + _at(tick), _SIDE_PX - _at(tick)
        parts.append(
            f'<path d="M{x:.1f} {_SIDE_PX}V{_SIDE_PX - high:.1f}M{_MARGIN_PX} {y:.1f}'
            f'H{_MARGIN_PX + high:.1f}" stroke="var(--line)"/>'
            f'<text x="{x:.1f}" y="{_SIDE_PX + 15}" text-anchor="middle">{tick:g}</text>'
            f'<text x="{_MARGIN_PX - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    parts.append(
        f'<path d="M{_MARGIN_PX + low:.1f} {_SIDE_PX - low:.1f}L{_MARGIN_PX + high:.1f} '
        f'{_SIDE_PX - high:.1f}" stroke="var(--soft)" stroke-dasharray="5 4"/>'
    )
    parts.append(_curve(group.before, "var(--plain)"))
    if group.after is not None:
        parts.append(_curve(group.after, "var(--accent)"))
    width, height = _MARGIN_PX + _SIDE_PX, _SIDE_PX + 38
    middle = _MARGIN_PX + high / 2
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="reliability, {title}">{"".join(parts)}'
        f'<text x="{middle:.0f}" y="{_SIDE_PX + 32}" text-anchor="middle">predicted error</text>'
        f'<text x="12" y="{_SIDE_PX - high / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {_SIDE_PX - high / 2:.0f})">observed error</text></svg>'
    )


def _at(error: float) -> float:
    """Pixels from the origin of an axis."""
    place = math.log(max(error, _LOWEST) / _LOWEST) / math.log(_HIGHEST / _LOWEST)
    return min(place, 1.0) * (_SIDE_PX - 24)


def _curve(found: Reliability, color: str) -> str:
    points = [(_MARGIN_PX + _at(b.predicted), _SIDE_PX - _at(b.observed)) for b in found.bins]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"><title>predicted '
        f"{b.predicted:.3f}, observed {b.observed:.3f}, mean {b.mean:.3f}, {b.pixels} pixels"
        "</title></circle>"
        for (x, y), b in zip(points, found.bins, strict=True)
    )
    return f'<polyline points="{line}" fill="none" stroke="{color}"/>{dots}'


def _table(name: str, found: Reliability) -> str:
    rows: Sequence[str] = [
        f"<tr><td>{b.predicted:.3f}</td><td>{b.observed:.3f}</td><td>{b.mean:.3f}</td>"
        f"<td>{b.pixels}</td></tr>"
        for b in found.bins
    ]
    head = f"<tr><th>{name}: predicted</th><th>observed</th><th>mean</th><th>pixels</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"
