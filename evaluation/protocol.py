"""Two numbers compare only when they were made the same way: say what differs, or join them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .provenance import plain
from .tables import markdown_table

_COMPARED = {
    "report.json": "AUC",
    "localization.json": "recall",
    "mapfree.json": "precision, VCRE precision",
}
_NOT_PROTOCOL = ("bootstrap_resamples", "confidence_level", "seed")


def protocol_of(report: Mapping[str, Any]) -> dict[str, object]:
    """What a report's numbers depend on apart from its methods, as plain values by name.

    Args:
        report: a `report.json` or `localization.json`, or such a report turned by `plain`.
    """
    settings = {k: v for k, v in report["settings"].items() if k not in _NOT_PROTOCOL}
    found: dict[str, object] = {f"settings.{key}": value for key, value in settings.items()}
    found |= {f"data {key}": value for key, value in report["data_sha256"].items()}
    rows = report["records"]
    pairs = {(r["set_name"], r.get("query") or f"{r['image1']}-{r['image2']}") for r in rows}
    found["evaluated"] = [list(pair) for pair in sorted(pairs)]
    for name in ("protocols", "retrieval"):
        if name in report:
            found |= {f"{name}.{key}": value for key, value in report[name].items()}
    return found


def check_same_protocol(one: Mapping[str, Any], other: Mapping[str, Any], names: str) -> None:
    """Raise a ValueError that names what differs, if two reports were not made the same way.

    Args:
        one: a report as plain values.
        other: the other.
        names: what the two are called in the message.
    """
    first, second = protocol_of(one), protocol_of(other)
    differing = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    if not differing:
        return
    shown = [
        f"{key}: {_short(first.get(key))} against {_short(second.get(key))}"
        for key in sorted(differing)[:6]
    ]
    more = f" and {len(differing) - 6} more" if len(differing) > 6 else ""
    raise ValueError(
        f"{names} follow different protocols and do not compare: {'; '.join(shown)}{more}"
    )


def compare_with_earlier(report: object, earlier: Path | str) -> str:
    """A Markdown table of this report's methods and an earlier report's, mean over sets.

    Args:
        report: an `EvaluationReport` or a `LocalizationReport`.
        earlier: folder that it was written to, or the JSON file itself.

    Raises:
        FileNotFoundError: there is no report of that kind.
        ValueError: it was made in another way; the message says in which.
    """
    now = plain(report)
    file_name = _file_name(now)
    path = Path(earlier)
    path = path / file_name if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no earlier report at {path}")
    before = json.loads(path.read_text(encoding="utf-8"))
    if _file_name(before) != file_name:
        raise ValueError(f"{path} measures something else, it cannot be compared with this run")
    check_same_protocol(now, before, f"this run and {path}")
    rows = [
        [when, group["method"], *_numbers(group)]
        for when, content in (("now", now), ("earlier", before))
        for group in content["overall"]
    ]
    header = ["run", "method", _COMPARED[file_name], "CPU s"]
    return markdown_table(header, rows)


def _file_name(report: Mapping[str, Any]) -> str:
    if "vcre_px" in report["settings"]:
        return "mapfree.json"
    return "localization.json" if "retrieval" in report else "report.json"


def _numbers(group: Mapping[str, Any]) -> list[str]:
    if "vcre_precision" in group:
        shares = (group["pose_precision"], group["vcre_precision"])
    elif "summary" in group:
        shares = group["summary"]["recall"].values()
    else:
        shares = (group["pose"] or {"auc": {}})["auc"].values()
    return ["/".join(f"{100 * v:.1f}" for v in shares), f"{group['mean_cpu_seconds']:.2f}"]


def _short(value: object) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
