"""The report as one HTML page that needs nothing else: thumbnails, plans and tables inside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ..pictures import depth_picture
from ..report import EdgeReport
from ..scene import Scene, SceneView
from ._files import written_at_once

THUMBNAIL_PX = 220  # long side
_PLAN_PX = 420
_PLAN_POINTS = 3000
_JPEG_QUALITY = 82

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d9dee7; --card: #fff;
  --page: #f5f6f8; --accent: #2468c9; --bad: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #333c4a;
  --card: #1b212b; --page: #12161d; --accent: #6ea8fe; --bad: #fb923c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1100px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 10px; }
.soft { color: var(--soft); } .bad { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px;
  overflow: hidden; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.card img { width: 100%; border-radius: 4px; display: block; }
.card p { margin: 8px 0 0; font-size: 13px; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
svg { max-width: 100%; height: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
svg text { fill: var(--soft); font: 10px system-ui, sans-serif; }
table { border-collapse: collapse; background: var(--card); width: 100%; font-size: 13px; }
th, td { border: 1px solid var(--line); padding: 4px 8px; text-align: left;
  overflow-wrap: anywhere; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


def save_html(scene: Scene, path: Path) -> Path:
    """Write the report page of a scene; it opens offline in any browser.

    Every text from outside (file names, warnings) is escaped; the page holds no script.

    Args:
        scene: with or without cameras.
        path: the `.html` file.

    Returns:
        `path`.
    """
    report = scene.report
    parts = [
        _header(scene),
        _list("Warnings", report.warnings, "bad"),
        "<h2>Photos</h2>",
        f'<div class="cards">{"".join(_card(scene, i) for i in range(len(scene)))}</div>',
        f"<h2>Where the photos were taken</h2>{plans}" if (plans := camera_plans(scene)) else "",
        _edges(scene),
        _list(
            "Rejected pairs",
            [f"{r.first} – {r.second}: {r.reason}" for r in report.rejected],
        ),
        _list("Files", [str(problem) for problem in report.problems]),
        _table("Time", "stage", "seconds", [(k, f"{v:.1f}") for k, v in report.timings_s.items()]),
        _table("Settings", "option", "value", [(k, str(v)) for k, v in report.settings.items()]),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Reconstruction report</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    with written_at_once(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _header(scene: Scene) -> str:
    report = scene.report
    placed = sum(map(len, scene.components))
    groups = len(scene.components)
    facts = [
        f"{len(report.pairs)} {'pair' if len(report.pairs) == 1 else 'pairs'} compared",
        f"{groups} separate groups" if groups > 1 else "",
        "metres" if scene.scale == "metric" else "no absolute scale",
        f"model {report.model}" if report.model else "",
        f"{sum(report.timings_s.values()):.0f} s" if report.timings_s else "",
    ]
    line = " · ".join(escape(fact) for fact in facts if fact)
    return f'<h1>{placed} of {len(scene)} photos placed</h1><div class="soft">{line}</div>'


def _card(scene: Scene, index: int) -> str:
    view = scene.views[index]
    pictures = _picture(view.rgb, "photo")
    lines = [f"<b>{index + 1}. {escape(view.name)}</b>"]
    if view.camera is None:
        lines.append('<span class="bad">no place found</span>')
    else:
        depth = np.where(scene.valid(index), view.depth, np.nan)
        pictures += _picture(depth_picture(depth), "depth")
        lines.append(f'<span class="soft">{escape(_camera_line(scene, index, view))}</span>')
    return (
        f'<div class="card"><div class="pictures">{pictures}</div><p>{"<br>".join(lines)}</p></div>'
    )


def _camera_line(scene: Scene, index: int, view: SceneView) -> str:
    camera = view.camera
    assert camera is not None
    fov = np.degrees(2 * np.arctan(camera.width / 2 / camera.K[0, 0]))
    share = float(scene.valid(index).mean())
    group = next(k for k, members in enumerate(scene.components) if index in members)
    where = f"group {group + 1}, " if len(scene.components) > 1 else ""
    size = f"{camera.width}x{camera.height} px"
    return (
        f"{where}{size}, focal length {camera.K[0, 0]:.0f} px ({fov:.0f}° wide), "
        f"{share:.0%} of it with depth{_error_line(scene, index)}"
    )


def _error_line(scene: Scene, index: int) -> str:
    """Say how wrong the shown depths of a photo are to be expected."""
    error = scene.expected_error(index)
    shown = scene.valid(index)
    if error is None or not shown.any():
        return ""
    return f", expected error of the depths {np.median(error[shown]):.1%} (median)"


def _picture(rgb: np.ndarray, what: str) -> str:
    """Shrink (H, W, 3) uint8 and put it into an img element."""
    image = Image.fromarray(rgb)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{what}" src="data:image/jpeg;base64,{data}">'


def camera_plans(scene: Scene) -> str:
    """Draw where the photos of each component were taken, from above and from the front.

    Returns:
        HTML with SVG in it, coloured by the custom properties `--soft`, `--accent`, `--card` and
        `--line`; "" for a scene without cameras.
    """
    if not scene.components:
        return ""
    plans = []
    for number, members in enumerate(scene.components):
        for title, axes in (("from above", (0, 2)), ("from the front", (0, 1))):
            caption = f"group {number + 1}, " if len(scene.components) > 1 else ""
            plans.append(_plan(scene, members, axes, caption + title))
    return f'<div class="row">{"".join(plans)}</div>'


def _plan(scene: Scene, members: Sequence[int], axes: tuple[int, int], title: str) -> str:
    """Draw cameras and points of one component along two axes of its frame."""
    cameras = [(i, scene.views[i].camera) for i in members]
    centers = np.array([camera.center for _, camera in cameras if camera is not None])
    cloud = _sparse_points(scene, members)
    everything = np.concatenate([centers, cloud])[:, axes]
    low, high = np.percentile(everything, [1, 99], axis=0)
    low, high = np.minimum(low, centers[:, axes].min(0)), np.maximum(high, centers[:, axes].max(0))
    extent = float(max((high - low).max(), 1e-9))
    middle = (low + high) / 2
    sign = np.array([1.0, -1.0 if axes[1] == 2 else 1.0])  # ahead is up, and y points down

    def to_plan(points: np.ndarray) -> np.ndarray:
        return ((points[..., axes] - middle) * sign / extent * 0.84 + 0.5) * _PLAN_PX

    inside = [(x, y) for x, y in to_plan(cloud) if 0 < x < _PLAN_PX and 0 < y < _PLAN_PX]
    dots = "".join(f"M{x:.1f} {y:.1f}h1" for x, y in inside)
    shapes = [f'<path d="{dots}" stroke="var(--soft)" stroke-opacity=".5"/>' if dots else ""]
    for index, camera in cameras:
        assert camera is not None
        apex = to_plan(camera.center)
        ahead = camera.world_from_cam[:3, 2][list(axes)] * sign
        across = np.array([-ahead[1], ahead[0]])
        corners = [apex, apex + 16 * ahead + 7 * across, apex + 16 * ahead - 7 * across]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        shapes.append(
            f'<polygon points="{points}" fill="var(--accent)" fill-opacity=".35" '
            f'stroke="var(--accent)"/><text x="{apex[0] + 4:.1f}" y="{apex[1] - 4:.1f}">'
            f"{index + 1}</text>"
        )
    return (
        f'<svg viewBox="0 0 {_PLAN_PX} {_PLAN_PX}" width="{_PLAN_PX}" role="img" '
        f'aria-label="plan {escape(title)}"><text x="8" y="16">{escape(title)}</text>'
        f"{''.join(shapes)}</svg>"
    )


def _sparse_points(scene: Scene, members: Sequence[int]) -> np.ndarray:
    """Points (N, 3) of a component, spread evenly over its photos."""
    share = max(1, _PLAN_POINTS // len(members))
    chosen = []
    for index in members:
        points = scene.points(index)
        points = points[np.isfinite(points).all(-1)]
        chosen.append(points[:: max(1, len(points) // share)][:share])
    return np.concatenate(chosen).astype(np.float64)


def _edges(scene: Scene) -> str:
    edges = scene.report.edges
    if not edges:
        return ""
    rows = "".join(
        f"<tr><td>{escape(scene.images[e.first])}</td><td>{escape(scene.images[e.second])}</td>"
        f'<td class="n">{e.matches}</td><td class="n">{e.fitting}</td>'
        f'<td class="n">{"-" if e.residual_px is None else f"{e.residual_px:.2f}"}</td></tr>'
        for e in edges
    )
    return (
        f'<h2>Pairs</h2><div class="row">{_matrix(len(scene), edges)}</div>'
        "<details><summary>All pairs</summary><table><tr><th>photo</th><th>photo</th>"
        "<th>matches</th><th>that fit the cameras</th><th>their median distance, px</th></tr>"
        f"{rows}</table></details>"
    )


def _matrix(count: int, edges: Iterable[EdgeReport]) -> str:
    """Draw one cell a pair: the more matches fit, the stronger its colour."""
    side = max(6, min(26, 640 // count))
    size = side * count + 24
    cells = []
    for edge in edges:
        share = edge.fitting / max(edge.matches, 1)
        strength = f"{0.08 + 0.92 * share:.2f}"
        label = f"{edge.first + 1} – {edge.second + 1}: {edge.fitting} of {edge.matches} fit"
        for row, column in ((edge.first, edge.second), (edge.second, edge.first)):
            cells.append(
                f'<rect x="{20 + column * side}" y="{20 + row * side}" width="{side - 1}" '
                f'height="{side - 1}" fill="var(--accent)" fill-opacity="{strength}">'
                f"<title>{label}</title></rect>"
            )
    step = max(1, -(-16 // side))
    numbers = "".join(
        f'<text x="{22 + k * side}" y="14">{k + 1}</text>'
        f'<text x="2" y="{30 + k * side}">{k + 1}</text>'
        for k in range(0, count, step)
    )
    return (
        f'<svg viewBox="0 0 {size} {size}" width="{size}" role="img" aria-label="share of matches '
        f'that fit, by pair">{numbers}{"".join(cells)}</svg>'
    )


def _list(title: str, entries: Sequence[str], style: str = "") -> str:
    if not entries:
        return ""
    items = "".join(f'<li class="{style}">{escape(entry)}</li>' for entry in entries)
    return f"<h2>{title}</h2><ul>{items}</ul>"


def _table(title: str, key: str, value: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in rows)
    return f"<h2>{title}</h2><table><tr><th>{key}</th><th>{value}</th></tr>{cells}</table>"
