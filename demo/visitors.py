"""Whose files are whose: what each visitor has uploaded, and been given."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAX_VISITORS = 10_000
_MAX_PAGES = 50  # of one visitor


class RefusedRequestError(Exception):
    """A request that does not reach Gradio.

    Attributes:
        status: of the reply.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class GuardLimits:
    """Bounds on what comes in.

    Attributes:
        request_bytes: body of one upload.
        visitor_bytes: uploads of one visitor that are kept at a time.
        total_bytes: everything in the temporary folder.
        hosts: names in the address that are answered to; None: all. For a server on this computer
            only, so that no page elsewhere gives itself a name that leads here.
    """

    request_bytes: int = 400 * 2**20
    visitor_bytes: int = 1000 * 2**20
    total_bytes: int = 20 * 2**30
    hosts: frozenset[str] | None = None


@dataclass
class _Visitor:
    files: set[str] = field(default_factory=set)
    uploads: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    uploading: int = 0  # bytes under way


class Visitors:
    """Who was told of which files of a folder.

    Args:
        root: folder that Gradio serves files from.
        limits: bounds on uploads.
    """

    def __init__(self, root: Path, limits: GuardLimits | None = None) -> None:
        self.root = os.path.realpath(root)
        self.limits = limits or GuardLimits()
        self._public: set[str] = set()
        self._visitors: OrderedDict[str, _Visitor] = OrderedDict()
        self._owners: dict[str, str] = {}
        self._lock = threading.Lock()
        # The folder as JSON writes it, and what follows up to the end of a text or of a tag in it.
        self._mentions = re.compile(
            re.escape(json.dumps(self.root)[1:-1]) + r'(?:[^"\\<>]|\\u[0-9a-f]{4}|\\\\|\\/)*'
        )

    def publish(self) -> None:
        """Let everyone have what lies in the folder now: the pictures of the page itself."""
        self._public.update(str(file) for file in Path(self.root).rglob("*") if file.is_file())

    def name(self, cookie: str | None) -> str:
        """The name that a browser sent if it may be one of ours, or a new one."""
        return cookie if cookie and re.fullmatch("[0-9a-f]{32}", cookie) else secrets.token_hex(16)

    def may_have(self, name: str, path: str) -> bool:
        """Whether a visitor was told of a file."""
        with self._lock:
            known = self._visitors.get(name)
            return path in self._public or (known is not None and path in known.files)

    def tell(self, name: str, text: str) -> None:
        """Remember the files that a reply to a visitor names."""
        found = {json.loads(f'"{mention}"') for mention in self._mentions.findall(text)}
        with self._lock:
            if found - self._public:
                self._entry(name).files |= found - self._public

    def tell_uploads(self, name: str, reply: str) -> None:
        """Remember the files that a visitor has uploaded, by Gradio's reply."""
        try:
            paths = json.loads(reply)
        except ValueError:
            return
        if isinstance(paths, list):
            found = {path for path in paths if isinstance(path, str)}
            with self._lock:
                self._entry(name).files |= found
                self._entry(name).uploads |= found

    def check(self, name: str, value: Any) -> None:
        """Check that JSON from a visitor names only files that this visitor was told of.

        Raises:
            RefusedRequestError: it names another one.
        """
        refused = RefusedRequestError(403, "this file belongs to someone else, or is gone")
        for item in _items(value):
            if isinstance(item, dict):  # as Gradio writes a file; its path may be an address, too
                path = item.get("path")
                if isinstance(path, str) and not self.may_have(name, path):
                    raise refused
            elif "\0" in item:
                raise RefusedRequestError(400, "there is a NUL in the request")
            elif len(item) <= 4096 and ("/" in item or "\\" in item):
                # A link or a way round by ".." leads to the same place.
                for path in (os.path.abspath(item), os.path.realpath(item)):
                    if self._inside(path) and not self.may_have(name, item):
                        raise refused

    def claim(self, name: str, session: str) -> None:
        """Bind Gradio's name of a page to the visitor who used it first.

        Raises:
            RefusedRequestError: it is another visitor's, or this one has too many pages.
        """
        with self._lock:
            if self._owners.get(session, name) != name:
                raise RefusedRequestError(403, "this page belongs to someone else")
            sessions = self._entry(name).sessions
            if session not in sessions and (len(sessions) >= _MAX_PAGES or len(session) > 64):
                raise RefusedRequestError(429, "too many pages are open")
            sessions.add(session)
            self._owners[session] = name

    def begin_upload(self, name: str, size: int) -> None:
        """Check that a visitor may upload so many bytes more, and expect them.

        Raises:
            RefusedRequestError: it is too much.
        """
        limits = self.limits
        if size > limits.request_bytes:
            most = limits.request_bytes // 2**20
            raise RefusedRequestError(413, f"that is too much at once: over {most} MB")
        everything = _size(str(file) for file in Path(self.root).rglob("*"))
        with self._lock:
            under_way = sum(visitor.uploading for visitor in self._visitors.values())
            visitor = self._entry(name)
            if _size(visitor.uploads) + visitor.uploading + size > limits.visitor_bytes:
                raise RefusedRequestError(413, "you have uploaded enough; open the page anew")
            if everything + under_way + size > limits.total_bytes:
                raise RefusedRequestError(507, "there is no room for more; please try again later")
            visitor.uploading += size

    def end_upload(self, name: str, size: int) -> None:
        """Expect them no longer."""
        with self._lock:
            visitor = self._entry(name)
            visitor.uploading = max(0, visitor.uploading - size)  # 0 if it left meanwhile

    def leave(self, session: str) -> None:
        """Delete the uploads of a visitor whose last page was closed, but not those of others."""
        with self._lock:
            name = self._owners.pop(session, None)
            known = None if name is None else self._visitors.get(name)
            if name is None or known is None:
                return
            known.sessions.discard(session)
            if known.sessions:
                return
            self._visitors.pop(name)
            shared = set().union(*(other.files for other in self._visitors.values()))
        for path in known.uploads - shared - self._public:
            if self._inside(os.path.realpath(path)):
                Path(path).unlink(missing_ok=True)

    def _entry(self, name: str) -> _Visitor:
        """The visitor; the lock must be held."""
        found = self._visitors.setdefault(name, _Visitor())
        self._visitors.move_to_end(name)
        if len(self._visitors) > _MAX_VISITORS:
            idle = next((n for n, v in self._visitors.items() if not v.files), None)
            gone = self._visitors.pop(idle or next(iter(self._visitors)))
            for session in gone.sessions:
                self._owners.pop(session, None)
        return found

    def _inside(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + os.sep)


def _items(value: Any) -> Iterator[str | dict[str, Any]]:
    """Every text in a JSON value, keys included, and every object."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield item
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item


def _size(files: Iterable[str]) -> int:
    total = 0
    for file in files:
        try:
            status = os.lstat(file)
        except OSError:
            continue  # deleted meanwhile
        total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
