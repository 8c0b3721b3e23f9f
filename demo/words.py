"""What the page says, and how it looks: texts, small pieces of HTML, CSS."""

from __future__ import annotations

from html import escape

from ..inference.correspondence import Correspondence
from ..inference.job.planner import show_seconds
from .results import ShownScene
from .runs import RunStatus

INTRODUCTION = """# Weav3R
Photos of one place in, cameras and dense 3D out. Two to {photos} photos that overlap well, taken
from different places, or a video. Files are deleted with the page."""

EMPTY_SCENE = "The scene appears here. Drag to turn it, scroll or pinch to come closer."
EMPTY_MATCHES = "Choose two photos of a finished scene. Then click a point in the left one."
EMPTY_DEPTH = "Each photo appears here beside its depth while the work goes on: bright is near."

CSS = """
.gradio-container { max-width: 1480px !important; margin: 0 auto; }
#header h1 { margin: 0; } #header p { margin: 2px 0 0; opacity: .8; }
#run, #cancel { min-width: 90px; }
.state { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg);
  background: var(--block-background-fill); padding: 12px 14px; }
.state b { font-weight: 600; } .state .soft { opacity: .75; font-size: .92em; }
.state .bar { height: 8px; border-radius: 4px; background: var(--border-color-primary);
  overflow: hidden; margin-top: 8px; }
.state .bar i { display: block; height: 100%; border-radius: 4px; transition: width .4s;
  background: var(--color-accent); }
.state .line { display: flex; justify-content: space-between; gap: 10px; flex-wrap: wrap; }
.state ul { margin: 6px 0 0 18px; padding: 0; font-size: .92em; overflow-wrap: anywhere; }
.state[data-state=failed] { border-color: #dc2626; }
.state[data-state=done] { border-color: #16a34a; }
#status, #status > div { padding: 0 !important; }
#examples .grid-wrap, #depth .grid-wrap { height: auto; min-height: 0; max-height: none; }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
#examples .thumbnail-item { aspect-ratio: 4 / 3; } #examples .caption-label { font-size: 11px; }
#depth .thumbnail-item { aspect-ratio: auto; height: auto; }
#depth .thumbnail-item img { height: auto; object-fit: contain; }
#scene canvas { touch-action: none; }
.plans { --soft: var(--body-text-color-subdued); --accent: var(--color-accent);
  --card: var(--block-background-fill); --line: var(--border-color-primary); }
.plans .row { display: flex; flex-wrap: wrap; gap: 12px; }
.plans svg { max-width: 100%; height: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: var(--radius-lg); }
.plans svg text { fill: var(--soft); font: 10px system-ui, sans-serif; }
#report iframe { width: 100%; height: 78vh; min-height: 480px; border: 1px solid
  var(--border-color-primary); border-radius: var(--radius-lg); background: Canvas; }
.hint { opacity: .75; font-size: .92em; }
#cameras, #cameras > div { max-width: 100%; overflow-x: auto; }
@media (max-width: 640px) {
  #tabs, #tabs .tabitem, #tabs .column { min-width: 0; max-width: calc(100vw - 16px); }
  #depth .grid-container { grid-template-columns: 1fr; }
  .gradio-container { padding: 8px !important; }
  #scene, #scene .model3D, #scene canvas { max-height: 62vh; }
}
"""


def status_html(status: RunStatus | None) -> str:
    """The panel under the buttons."""
    if status is None:
        return _panel("idle", '<span class="soft">Add photos or pick an example, then Run.</span>')
    if status.state == "waiting":
        others = "one run comes" if status.ahead == 1 else f"{status.ahead} runs come"
        text = f"Waiting: {others} first." if status.ahead else "Starting."
        return _panel("running", f"<b>{text}</b>{_bar(0)}")
    if status.state == "running":
        left = status.remaining_s
        eta = "" if left is None else f"about {show_seconds(max(1.0, left))} left"
        line = (
            f'<div class="line"><b>{escape(status.stage)}</b><span class="soft">{eta}</span></div>'
        )
        return _panel("running", line + _bar(status.share))
    if status.state == "cancelled":
        return _panel("cancelled", "<b>Cancelled.</b> Nothing was kept.")
    if status.state == "failed":
        return _panel("failed", f"<b>That did not work.</b><br>{escape(sentence(status.message))}")
    result = status.result
    assert result is not None  # of a run that is done
    text = (
        f"<b>{result.placed} of {result.photos} photos placed</b> "
        f'<span class="soft">in {show_seconds(status.elapsed_s)}</span>'
    )
    return _panel("done", text + _notes(result.notes))


def count_text(shown: ShownScene) -> str:
    """How many points the filters leave, and how many of them are drawn."""
    left_out = shown.total - shown.kept
    share = left_out / max(1, shown.total)
    text = f"**{shown.kept:,} points**, {left_out:,} of {shown.total:,} left out ({share:.0%})."
    if shown.kept > shown.shown:
        text += f" The browser gets {shown.shown:,} of them, spread evenly; downloads hold more."
    return text


def report_frame(page: str) -> str:
    """The report as a page of its own within the page; it can run no script."""
    return f'<iframe sandbox="" title="report" srcdoc="{escape(page, quote=True)}"></iframe>'


def _panel(state: str, content: str) -> str:
    return f'<div class="state" data-state="{state}" role="status">{content}</div>'


def _bar(share: float) -> str:
    return (
        f'<div class="bar" role="progressbar" aria-valuenow="{100 * share:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100"><i style="width:{100 * share:.1f}%"></i></div>'
    )


def _notes(notes: list[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def sentence(text: str) -> str:
    """An error message as one line that begins with a capital letter."""
    line = " ".join(text.replace(":\n", ": ").replace("\n", "; ").split())
    return line[:1].upper() + line[1:] + ("" if line.endswith(".") else ".")


def match_text(found: Correspondence, more: str = "") -> str:
    """What is known of a matched pair, in lines of Markdown."""
    lines = [found.summary(), found.motion, more]
    return "  \n".join(plain(line) for line in lines if line)


def plain(text: str) -> str:
    """Text that Markdown shows as it is: file names hold underscores, and worse."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+-!|~$" else c for c in text)
