"""A folder of results that can be used again: named by what they were made from, checked when read.

Entries never change: whoever holds the key gets the same arrays or nothing. Each is written to a
file of its own, flushed to the disk and then renamed into place, so that a process killed at any
moment leaves whole entries only, and several processes may share a folder without locks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the entries; older ones are left unread."""

_MAGIC = b"weav3r job entry %d\n" % FORMAT
_DIGEST_BYTES = 32
_MARKER = "weav3r-job.json"
_SUFFIX = ".entry"
_UNFINISHED = ".unfinished-"
_STALE_S = 3600.0  # an unfinished file of this age was left by a killed process

Arrays = dict[str, Tensor]


def fingerprint(*parts: Any) -> str:
    """Name what a result depends on, as 64 hexadecimal digits.

    Args:
        *parts: text, numbers, bools, None, bytes, arrays, tensors, and lists, tuples or
            mappings of these; equal values give equal names, in every process and on every
            machine.

    Raises:
        TypeError: for anything else.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    _feed(digest, parts)
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    """Add one value with its type and length, so that no two different values read the same."""
    if isinstance(part, Tensor):
        dtype, shape = str(part.dtype), list(part.shape)
        flat = part.detach().cpu().contiguous().reshape(-1)
        _feed(digest, ["array", dtype, shape, flat.view(torch.uint8).numpy().data])
    elif isinstance(part, np.ndarray):
        if part.dtype.hasobject:
            raise TypeError("an array of objects cannot be part of a fingerprint")
        content = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        _feed(digest, ["array", part.dtype.str, list(part.shape), content.data])
    elif isinstance(part, bytes | memoryview):
        digest.update(b"b%d:" % len(part))
        digest.update(part)
    elif isinstance(part, Mapping):
        _feed(digest, ["mapping", *([key, part[key]] for key in sorted(part))])
    elif isinstance(part, list | tuple):
        digest.update(b"l%d:" % len(part))
        for item in part:
            _feed(digest, item)
    elif part is None or isinstance(part, bool | int | float | str):
        text = f"{type(part).__name__} {part!r}".encode()
        digest.update(b"v%d:" % len(text) + text)
    else:
        raise TypeError(f"a {type(part).__name__} cannot be part of a fingerprint")


class JobStore:
    """The entries of one job folder.

    Args:
        folder: made if needed; an existing one must be empty or a job folder.
        max_bytes: size above which the entries that were not used for longest are deleted; None
            for no bound.

    Raises:
        ValueError: if the folder holds other files, or is not a folder, or `max_bytes` is not
            positive.
    """

    def __init__(self, folder: str | Path, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.folder = Path(folder).expanduser().absolute()
        self.max_bytes = max_bytes
        self._can_write = True
        _claim(self.folder)
        self._remove_unfinished()
        self._bytes = self.size_bytes() if max_bytes is not None else 0

    def get(self, kind: str, key: str) -> Arrays | None:
        """Read an entry.

        Args:
            kind: a word, the name of its sub-folder.
            key: its fingerprint.

        Returns:
            The tensors as they were put, on the CPU; None where there is no entry. A damaged one,
            or one that belongs elsewhere, is deleted with a warning, and counts as missing.
        """
        path = self._path(kind, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("%s cannot be read (%s); it is computed again", path, error.strerror)
            return None
        tensors = _unpack(data, kind, key)
        if tensors is None:
            self.discard(kind, key, "is damaged or belongs elsewhere")
        elif self.max_bytes is not None:
            _touch(path)
        return tensors

    def __contains__(self, entry: tuple[str, str]) -> bool:
        """Tell whether there is a file for (kind, key); reading it may still find it damaged."""
        return self._path(*entry).is_file()

    def put(self, kind: str, key: str, tensors: Arrays) -> bool:
        """Write an entry.

        Returns:
            Whether it was written. A full or read-only disk costs the entry and one warning, not
            the run.
        """
        if not self._can_write:
            return False
        data = _pack(tensors, kind, key)
        try:
            _write_atomically(self._path(kind, key), data)
        except OSError as error:
            self._can_write = False
            logger.warning(
                "%s: %s; the run goes on, but what it computes from here on is not kept",
                *(self.folder, error.strerror),
            )
            return False
        self._bytes += len(data)
        if self.max_bytes is not None and self._bytes > self.max_bytes:
            self._shrink(self.max_bytes)
        return True

    def discard(self, kind: str, key: str, reason: str) -> None:
        """Delete an entry that cannot be used, and say why."""
        path = self._path(kind, key)
        logger.warning("%s %s; it is computed again", path, reason)
        _delete(path)

    @contextmanager
    def sign(self) -> Iterator[str]:
        """Leave a sign, as long as the block runs, that tells this folder from any other.

        Yields:
            What `find` wants on another machine, to open this folder if it is the same there.
        """
        name = secrets.token_hex(16)
        path = self._path("sign", name).with_name(f"{_UNFINISHED}{name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            logger.info("%s: %s", self.folder, error.strerror)
        try:
            yield name
        finally:
            _delete(path)

    @staticmethod
    def find(folder: Path, sign: str) -> JobStore | None:
        """Open the folder in which another process left a sign; None where it cannot be seen."""
        path = folder / "sign" / sign[:2] / f"{_UNFINISHED}{sign}"
        return JobStore(folder) if path.exists() else None

    def size_bytes(self) -> int:
        """Size of all entries."""
        return sum(size for _, size, _ in self._entries())

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / f"{key}{_SUFFIX}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path), the least recently used first."""
        found = []
        for path in self.folder.glob(f"*/*/*{_SUFFIX}"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process deleted it
                continue
            found.append((stat.st_mtime, stat.st_size, path))
        return sorted(found)

    def _shrink(self, limit: int) -> None:
        entries = self._entries()
        self._bytes = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if self._bytes <= 0.9 * limit:  # not at every single write
                break
            _delete(path)
            self._bytes -= size

    def _remove_unfinished(self) -> None:
        for path in self.folder.glob(f"*/*/{_UNFINISHED}*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_S:
                    _delete(path)
            except FileNotFoundError:
                continue


def _claim(folder: Path) -> None:
    """Make a folder a job folder, unless it holds something else."""
    marker = folder / _MARKER
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a job needs a folder")
    if marker.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    others = [p.name for p in folder.iterdir() if not p.name.startswith(_UNFINISHED)]
    if others and not marker.exists():  # another process may have claimed it meanwhile
        raise ValueError(
            f"{folder} holds other files ({', '.join(sorted(others)[:3])}), so it is no job "
            "folder; name an empty or a new one"
        )
    text = "Results of weav3r that a later run can use again. It may be deleted at any time."
    _write_atomically(marker, json.dumps({"about": text, "format": FORMAT}, indent=2).encode())


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f"{_UNFINISHED}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        _delete(unfinished)
        raise


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # open in another process (Windows), or no permission
        logger.info("%s stays: %s", path, error.strerror)


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError as error:
        logger.debug("%s: %s", path, error.strerror)


def _pack(tensors: Arrays, kind: str, key: str) -> bytes:
    payload = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    return b"".join((_MAGIC, _checksum(payload, kind, key), payload))


def _unpack(data: bytes, kind: str, key: str) -> Arrays | None:
    start = len(_MAGIC) + _DIGEST_BYTES
    payload = data[start:]
    if data[:start] != _MAGIC + _checksum(payload, kind, key):
        return None
    try:  # clones are aligned as fresh tensors are, which keeps the bits of what is made from them
        return {name: tensor.clone() for name, tensor in load(payload).items()}
    except (SafetensorError, ValueError, KeyError):
        return None


def _checksum(payload: bytes, kind: str, key: str) -> bytes:
    """Of content and name together: an entry that was moved or renamed is foreign, too."""
    digest = hashlib.blake2b(f"{kind} {key}\n".encode(), digest_size=_DIGEST_BYTES)
    digest.update(payload)
    return digest.digest()
