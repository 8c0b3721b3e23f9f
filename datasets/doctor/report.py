"""The doctor's report as one HTML page that needs nothing else: findings, numbers, pictures."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from .findings import Diagnosis, Finding, Trial, ViewPictures

_THUMBNAIL_PX = 240  # long side
_BINS = 10

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d9dee7; --card: #fff;
  --page: #f5f6f8; --accent: #2468c9; --error: #c0261c; --warning: #b45309; --good: #15803d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #333c4a;
  --card: #1b212b; --page: #12161d; --accent: #6ea8fe; --error: #f87171; --warning: #fbbf24;
  --good: #4ade80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1100px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 10px; }
.soft { color: var(--soft); } .good { color: var(--good); }
.finding { background: var(--card); border: 1px solid var(--line); border-left: 5px solid;
  border-radius: 6px; padding: 10px 14px; margin: 10px 0; }
.error { border-left-color: var(--error); } .warning { border-left-color: var(--warning); }
.note { border-left-color: var(--soft); }
.finding b { margin-right: 8px; } .finding p { margin: 4px 0 0; }
.error > b { color: var(--error); } .warning > b { color: var(--warning); }
.pictures { display: flex; flex-wrap: wrap; gap: 10px; background: var(--card); margin: 10px 0;
  border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
figure { margin: 0; width: 196px; } figure img { width: 100%; border-radius: 4px; display: block;
  image-rendering: auto; } figcaption { font-size: 12px; color: var(--soft); }
.pictures > p { margin: 0; flex-basis: 100%; font-size: 13px; }
table { border-collapse: collapse; background: var(--card); width: 100%; font-size: 13px; }
th, td { border: 1px solid var(--line); padding: 4px 8px; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; width: 5em; }
.bar { display: inline-block; height: 9px; background: var(--accent); border-radius: 2px; }
svg { background: var(--card); border: 1px solid var(--line); border-radius: 8px; max-width: 100%; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } svg rect { fill: var(--accent); }
"""


def save_report(diagnosis: Diagnosis, path: Path, name: str) -> Path:
    """Write the page; it opens offline, holds no script, and escapes all text from outside.

    Args:
        diagnosis: what to show.
        path: the `.html` file.
        name: of the data set, for the title.

    Returns:
        `path`.
    """
    parts = [
        _header(diagnosis, name),
        "".join(_finding(finding) for finding in diagnosis.findings),
        _section("Views, and one carried into another by depth and poses", _pictures(diagnosis)),
        _section("What the numbers may mean", _trials(diagnosis.trials)),
        _section("How much views see of each other", _overlaps(diagnosis)),
        _section("Numbers", _facts(diagnosis)),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Data set {escape(name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def _header(diagnosis: Diagnosis, name: str) -> str:
    errors = [f for f in diagnosis.findings if f.level == "error"]
    if errors:
        verdict = f"{len(errors)} {'error' if len(errors) == 1 else 'errors'}: not fit for training"
        return f'<h1>{escape(name)}</h1><div style="color:var(--error)">{verdict}</div>'
    return f'<h1>{escape(name)}</h1><div class="good">fit for training</div>'


def _finding(finding: Finding) -> str:
    lines = [f"<b>{escape(finding.code)}</b>{escape(finding.message)}"]
    if finding.advice:
        lines.append(f"<p>{escape(finding.advice)}</p>")
    if finding.where:
        lines.append(f'<p class="soft">{escape(", ".join(finding.where))}</p>')
    return f'<div class="finding {finding.level}">{"".join(lines)}</div>'


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}" if body else ""


def _pictures(diagnosis: Diagnosis) -> str:
    return "".join(_row(view) for view in diagnosis.views)


def _row(view: ViewPictures) -> str:
    figures = "".join(
        f"<figure>{_picture(rgb, title)}<figcaption>{escape(title)}</figcaption></figure>"
        for title, rgb in view.pictures.items()
    )
    return f'<div class="pictures"><p>{escape(view.caption)}</p>{figures}</div>'


def _picture(rgb: UInt8[np.ndarray, "h w 3"], what: str) -> str:
    image = Image.fromarray(rgb)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(what)}" src="data:image/jpeg;base64,{data}">'


def _trials(trials: tuple[Trial, ...]) -> str:
    if not trials:
        return ""
    rows = "".join(
        f"<tr><td>{escape(trial.text)}</td><td class='n'>{trial.scale:.4g}</td>"
        f"<td class='n'>{trial.score:.2f}</td>"
        f"<td><span class='bar' style='width:{200 * max(trial.score, 0):.0f}px'></span></td></tr>"
        for trial in trials
    )
    return (
        "<table><tr><th>stored numbers read as</th><th>depth times</th><th>agreement</th>"
        f"<th></th></tr>{rows}</table>"
    )


def _overlaps(diagnosis: Diagnosis) -> str:
    if len(diagnosis.overlaps) == 0:
        return ""
    line = (
        f"{diagnosis.minable} of {len(diagnosis.overlaps)} pairs that were looked at see between "
        "10 % and 98 % of each other; <code>weav3r data pairs</code> would keep them."
    )
    return f"<p>{line}</p>{_histogram(diagnosis.overlaps)}"


def _histogram(overlaps: Float32[np.ndarray, " n"]) -> str:
    counts, _ = np.histogram(overlaps, bins=_BINS, range=(0, 1))
    most = max(1, int(counts.max()))
    bars = []
    for k, count in enumerate(counts):
        height = 120 * count / most
        bars.append(
            f'<rect x="{30 + k * 52}" y="{140 - height:.1f}" width="46" height="{height:.1f}">'
            f"<title>{count} pairs</title></rect>"
            f'<text x="{30 + k * 52}" y="156">{k * 100 // _BINS} %</text>'
            f'<text x="{34 + k * 52}" y="{136 - height:.1f}">{count}</text>'
        )
    return (
        '<svg viewBox="0 0 570 170" width="570" role="img" aria-label="pairs by the share of the '
        f'one view that the other sees, the worse way">{"".join(bars)}</svg>'
    )


def _facts(diagnosis: Diagnosis) -> str:
    rows = "".join(
        f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>"
        for key, value in diagnosis.facts.items()
    )
    return f"<table>{rows}</table>" if rows else ""
