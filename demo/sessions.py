"""Temporary folders of the people who use the page, and their end."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class _Session:
    folder: Path
    uploads: set[Path] = field(default_factory=set)
    used_at: float = field(default_factory=time.monotonic)


class Sessions:
    """One folder per session below a root that is deleted when the server stops.

    Names of folders cannot be guessed. A session ends when its page is closed, or when it was not
    used for `max_age_s` (a browser that vanished says nothing).
    """

    def __init__(self, root: Path | None = None, max_age_s: float = 6 * 3600) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="weav3r-demo-", dir=root))
        self.max_age_s = max_age_s
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def begin_run(self, name: str, uploads: Iterable[str | Path] = ()) -> Path:
        """Give session `name` a new, empty folder; the results of its last run are deleted.

        Args:
            name: anything that identifies the session.
            uploads: files outside of the folder that are to be deleted with the session.
        """
        self._end_old()
        folder = self.root / secrets.token_hex(16)
        folder.mkdir()
        with self._lock:
            session = self._sessions.setdefault(name, _Session(folder))
            last, session.folder = session.folder, folder
            session.uploads.update(Path(file) for file in uploads)
            session.used_at = time.monotonic()
        if last != folder:
            shutil.rmtree(last, ignore_errors=True)
        return folder

    def end_run(self, name: str, folder: Path) -> bool:
        """Say whether the results in `folder` still belong to an open session; else delete them."""
        with self._lock:
            session = self._sessions.get(name)
            current = session is not None and session.folder == folder
        if not current:
            shutil.rmtree(folder, ignore_errors=True)
        return current

    def close(self, name: str) -> None:
        """Delete all that a session left, except uploads that another session shares."""
        with self._lock:
            session = self._sessions.pop(name, None)
            if session is None:
                return
            shared = set().union(*(other.uploads for other in self._sessions.values()))
        for file in session.uploads - shared:
            file.unlink(missing_ok=True)
        shutil.rmtree(session.folder, ignore_errors=True)

    def close_all(self) -> None:
        """Delete the root with all that is in it."""
        with self._lock:
            self._sessions.clear()
        shutil.rmtree(self.root, ignore_errors=True)

    def _end_old(self) -> None:
        limit = time.monotonic() - self.max_age_s
        with self._lock:
            old = [name for name, session in self._sessions.items() if session.used_at < limit]
        for name in old:
            self.close(name)
