"""Records of a run: one JSON object per line, TensorBoard, and short lines for people."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class RunLog:
    """Writes `log.jsonl` (appended to), TensorBoard events, and messages to `logging`.

    Args:
        folder: of the run; None writes no files (other processes of a distributed run).
        tensorboard: also write event files; skipped with a warning when it is not installed.
    """

    def __init__(self, folder: Path | None, tensorboard: bool = False) -> None:
        self._file = None
        self._writer: Any = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                logger.warning("no TensorBoard files: pip install 'weav3r[train]'")
            else:
                self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record; numbers also go to TensorBoard under `kind/name`."""
        if self._file is None:
            return
        record = {"kind": kind, "step": step, "time": round(time.time(), 3)}
        record.update({k: _plain(v) for k, v in values.items()})
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Read the records of a run."""
    path = Path(folder) / "log.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no log of a run at {path}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def format_values(values: Mapping[str, Any], digits: int = 4) -> str:
    """Return `name value` pairs for one line."""
    parts = []
    for name, value in values.items():
        text = f"{value:.{digits}g}" if isinstance(value, float) else str(value)
        parts.append(f"{name} {text}")
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """Return `1h02m` or `3m05s`."""
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
