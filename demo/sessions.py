"""Temporary folders of the people who use the page, and their end."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_PREFIX, _LOCK = "weav3r-demo-", ".running"


@dataclass
class _Session:
    folder: Path
    uploads: set[Path] = field(default_factory=set)
    used_at: float = field(default_factory=time.monotonic)


class Sessions:
    """One folder per session below a root that is deleted when the server stops.

    Names of folders cannot be guessed. A session ends when its page is closed, or when it was not
    used for `max_age_s` (a browser that vanished says nothing). Roots of servers that crashed are
    deleted by the next one.

    Args:
        root: where the root is made; default: the folder for temporary files.
        max_age_s: see above.
        max_sessions: open at a time.
        max_bytes: of all sessions; no new run begins above it.
    """

    def __init__(
        self,
        root: Path | None = None,
        max_age_s: float = 6 * 3600,
        max_sessions: int = 100,
        max_bytes: int = 20 * 2**30,
    ) -> None:
        parent = Path(tempfile.gettempdir() if root is None else root)
        remove_stale(parent)
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
        self._held = _hold(self.root / _LOCK, os.O_CREAT)
        self.max_age_s, self.max_sessions, self.max_bytes = max_age_s, max_sessions, max_bytes
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def begin_run(self, name: str, uploads: Iterable[str | Path] = ()) -> Path:
        """Give session `name` a new, empty folder; the results of its last run are deleted.

        Args:
            name: anything that identifies the session.
            uploads: files outside of the folder that are to be deleted with the session.

        Raises:
            ValueError: too many others have sessions, or they fill the disk.
        """
        self._end_old()
        self._check_room(name)
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

    def folder(self, name: str) -> Path | None:
        """Where the last run of a session lies; None for a session that had none or has ended."""
        with self._lock:
            session = self._sessions.get(name)
            if session is not None:
                session.used_at = time.monotonic()
            return None if session is None else session.folder

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
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _end_old(self) -> None:
        limit = time.monotonic() - self.max_age_s
        with self._lock:
            old = [name for name, session in self._sessions.items() if session.used_at < limit]
        for name in old:
            self.close(name)

    def _check_room(self, name: str) -> None:
        with self._lock:
            others = len(self._sessions.keys() - {name})
        if others >= self.max_sessions:
            raise ValueError("too many people are using this page; please try again later")
        if sum(_sizes(self.root)) > self.max_bytes:
            raise ValueError("there is no room for more; please try again later")


def remove_stale(parent: Path) -> None:
    """Delete the roots in a folder whose servers are dead.

    A server holds a lock on a file in its root, which the system lets go of however it ends. Only
    folders of this user that have such a file are touched, links never.
    """
    for root in parent.glob(f"{_PREFIX}*"):
        try:
            status = root.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != _user():
                continue
            held = _hold(root / _LOCK)
        except OSError:
            continue
        if held is not None:
            shutil.rmtree(root, ignore_errors=True)
            os.close(held)


def _hold(file: Path, flags: int = 0) -> int | None:
    """Lock a file for as long as it is open; None if another process has, or where none can."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _user() -> int:
    return 0 if sys.platform == "win32" else os.getuid()


def _sizes(folder: Path) -> Iterator[int]:
    for file in folder.rglob("*"):
        try:
            status = file.lstat()
        except OSError:
            continue  # deleted meanwhile
        if stat.S_ISREG(status.st_mode):
            yield status.st_size
