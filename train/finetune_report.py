"""The page that shows what a fine-tuning changed: numbers, and depth maps before and after."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from .validation import Sample

_MEASURES = {
    "e1": "point error, photo 1",
    "e2": "point error, photo 2",
    "abs_rel": "relative depth error",
    "pck1.5": "matches within 1.5 px",
    "pck5": "matches within 5 px",
    "reciprocal_pck1.5": "mutual matches within 1.5 px",
}
_TITLES = {"held out": "Held-out photos of the data set", "procedural": "Procedural scenes"}
_COLOURS = np.array(  # near to far, interpolated between
    [[252, 253, 191], [252, 137, 97], [183, 55, 121], [81, 18, 124], [10, 8, 40]], dtype=np.float64
)
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d9dee7; --card: #fff;
  --page: #f5f6f8; --good: #15803d; --bad: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #333c4a;
  --card: #1b212b; --page: #12161d; --good: #4ade80; --bad: #fb923c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1100px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 10px; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); font-size: 13px; }
th, td { border: 1px solid var(--line); padding: 4px 10px; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.strip { display: grid; grid-template-columns: repeat(5, minmax(110px, 1fr)); gap: 6px;
  margin-bottom: 10px; overflow-x: auto; }
.strip figure { margin: 0; } .strip img { width: 100%; border-radius: 4px; display: block; }
.strip figcaption { font-size: 12px; color: var(--soft); }
"""

Scores = Mapping[str, Mapping[str, float]]


def write_report(
    path: Path,
    name: str,
    scores: Mapping[str, Scores],
    before: Mapping[str, Sequence[Sample]],
    after: Mapping[str, Sequence[Sample]],
    facts: Mapping[str, str],
) -> Path:
    """Write the page; it needs no other file and no script.

    Args:
        path: the `.html` file.
        name: of the data set.
        scores: "before" and "after" -> data set -> measure -> value.
        before, after: what the old and the new network make of the same pairs.
        facts: rows of the table at the end.
    """
    parts = [f"<h1>Fine-tuned on {escape(name)}</h1>", _headline(scores)]
    for key, title in _TITLES.items():
        rows = zip(before[key], after[key], strict=True)
        parts += [
            f"<h2>{title}</h2>",
            _table(scores["before"][key], scores["after"][key]),
            "<p class=soft>Errors are relative to the scene. Depth has the same colours "
            "in truth, before and after; grey is unknown.</p>",
            *(_strip(old, new) for old, new in rows),
        ]
    cells = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in facts.items())
    parts.append(f"<h2>How</h2><div class=wide><table>{cells}</table></div>")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Fine-tuned on {escape(name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")
    return path


def _headline(scores: Mapping[str, Scores]) -> str:
    texts = []
    for key, where in (("held out", "on held-out photos"), ("procedural", "on procedural scenes")):
        old, new = (
            (scores[when][key]["e1"] + scores[when][key]["e2"]) / 2 for when in ("before", "after")
        )
        change = new / old - 1
        kind = "good" if change <= 0 else "bad"
        texts.append(f"<span class={kind}>{change:+.0%}</span> {where}")
    return f"<p>Mean pointmap error: {', '.join(texts)}.</p>"


def _table(old: Mapping[str, float], new: Mapping[str, float]) -> str:
    rows = []
    for key, title in _MEASURES.items():
        if key in old and key in new:
            better = new[key] > old[key] if "pck" in key else new[key] < old[key]
            kind = "good" if better else "bad"
            rows.append(
                f"<tr><td>{title}</td><td class=n>{old[key]:.3f}</td>"
                f'<td class="n {kind}">{new[key]:.3f}</td></tr>'
            )
    head = "<tr><th>measure</th><th>before</th><th>after</th></tr>"
    return f"<div class=wide><table>{head}{''.join(rows)}</table></div>"


def _strip(old: Sample, new: Sample) -> str:
    known = old.depth[np.isfinite(old.depth)]
    near, far = np.quantile(known, [0.02, 0.98]) if known.size else (0.0, 1.0)
    pictures = {
        "photo 1": old.image1,
        "photo 2": old.image2,
        "true depth": _coloured(old.depth, near, far),
        "before": _coloured(old.predicted, near, far),
        "after": _coloured(new.predicted, near, far),
    }
    figures = [
        f'<figure><img alt="{title}" src="{_data_url(pixels)}"><figcaption>{title}</figcaption>'
        "</figure>"
        for title, pixels in pictures.items()
    ]
    return f"<div class=strip>{''.join(figures)}</div>"


def _coloured(depth: Float32[np.ndarray, "h w"], near: float, far: float) -> np.ndarray:
    share = np.clip((depth - near) / max(far - near, 1e-6), 0, 1)
    known = np.isfinite(share)
    steps = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(np.where(known, share, 0), steps, _COLOURS[:, c]) for c in range(3)]
    pixels = np.stack(channels, -1)
    pixels[~known] = 128
    return pixels.astype(np.uint8)


def _data_url(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
