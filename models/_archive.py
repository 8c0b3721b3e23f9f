"""The zip archive that `torch.save` writes, mapped into memory and read without trust."""

from __future__ import annotations

import io
import mmap
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._foreign import ACCEPTED, hint
from ._pickle import interpret
from ._stored import StoredTensor, shown

MAX_DIRECTORY_BYTES = 4 * 2**20  # of the list of entries; 1000 tensors take 80 kB
MAX_PROGRAM_BYTES = 16 * 2**20  # of the pickle; 1000 tensors take 150 kB

_ZIP_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # magic, length of the name, of the extra field
_AGAIN = "fetch the file again"
_SAVE_AGAIN = "load it with torch where you trust it, and write it again with torch.save"


class TorchArchive:
    """A `torch.save` file of torch 1.6 or newer.

    Args:
        path: the file.

    Attributes:
        value: what the file holds, with `StoredTensor` in the place of tensors; see `interpret`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is damaged, of another kind, or asks for anything that
            a checkpoint does not need.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _BoundedFile(path) as file:
            _require_zip(path, file.read(_HEAD_BYTES))
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._entries = _read_directory(path, file)
        self._checked: set[str] = set()
        self._root = self._find_root()
        self.value = self._interpret()

    def tensors(self, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Give views of the mapped file; changing one changes memory only, never the file.

        Args:
            stored: parts of `value`, by name.

        Returns:
            The tensors in their stored types. Those that share a storage in the file share memory.

        Raises:
            ValueError: if the checksum of a storage is wrong, or the tensors together describe
                more than twice the file (each storage is there for one tensor and one alias).
        """
        if sum(entry.nbytes for entry in stored.values()) > 2 * len(self._map):
            raise ValueError(f"{self.path}: its tensors together are larger than the file")
        flat = self._storages(entry for entry in stored.values() if entry.nbytes)
        return {
            name: torch.empty(entry.shape, dtype=entry.dtype)
            if entry.nbytes == 0
            else flat[entry.key, entry.dtype].as_strided(entry.shape, entry.stride, entry.offset)
            for name, entry in stored.items()
        }

    def _storages(self, stored: Iterable[StoredTensor]) -> dict[tuple[str, torch.dtype], Tensor]:
        flat: dict[tuple[str, torch.dtype], Tensor] = {}
        for entry in stored:
            index = (entry.key, entry.dtype)
            if index in flat:
                continue
            name = f"{self._root}/data/{entry.key}"
            start, size = self._checked_span(name)
            if start % entry.dtype.itemsize:
                raise ValueError(f"{self.path}: {shown(name)} is not aligned; {_SAVE_AGAIN}")
            flat[index] = torch.frombuffer(
                self._map, dtype=entry.dtype, count=size // entry.dtype.itemsize, offset=start
            )
        return flat

    def _find_root(self) -> str:
        roots = [n.removesuffix("/data.pkl") for n in self._entries if n.endswith("/data.pkl")]
        if len(roots) != 1 or "/" in roots[0]:
            raise ValueError(
                f"{self.path} is a zip archive but no torch checkpoint: expected one folder with "
                f"one data.pkl, found {len(roots)}; {ACCEPTED}"
            )
        order = "little"
        if f"{roots[0]}/byteorder" in self._entries:
            order = self._read(f"{roots[0]}/byteorder", 16).decode("ascii", "replace").strip()
        if order != sys.byteorder:
            raise ValueError(
                f"{self.path} holds numbers in {order!r} byte order, this machine reads "
                f"{sys.byteorder!r}; {_SAVE_AGAIN}"
            )
        return roots[0]

    def _interpret(self) -> Any:
        pattern = re.compile(re.escape(self._root) + r"/data/([0-9]{1,9})")
        found = {name: pattern.fullmatch(name) for name in self._entries}
        sizes = {match[1]: self._entries[name].file_size for name, match in found.items() if match}
        program = self._read(f"{self._root}/data.pkl", MAX_PROGRAM_BYTES)
        try:
            return interpret(program, sizes)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def _read(self, name: str, limit: int) -> bytes:
        if self._entries[name].file_size > limit:
            raise ValueError(f"{self.path}: {shown(name)} is larger than {limit} bytes")
        start, size = self._checked_span(name)
        return self._map[start : start + size]

    def _checked_span(self, name: str) -> tuple[int, int]:
        """Find the bytes of an entry, first one and count, and verify its checksum once."""
        entry = self._entries[name]
        header = self._map[entry.header_offset : entry.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_ZIP_MAGIC):
            raise ValueError(f"{self.path} is damaged: {shown(name)} is not where it should be")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        end = start + entry.file_size
        if end > len(self._map):
            raise ValueError(
                f"{self.path} is cut short: {shown(name)} ends behind its end; {_AGAIN}"
            )
        if name not in self._checked:
            if self._checksum(start, entry.file_size) != entry.CRC:
                raise ValueError(
                    f"{self.path} is damaged: the checksum of {shown(name)} is wrong; fetch "
                    "the file again (or, if it was written with checksums switched off, "
                    f"{_SAVE_AGAIN})"
                )
            self._checked.add(name)
        return start, entry.file_size

    def _checksum(self, start: int, size: int) -> int:
        """Read the file, not the map: pages of the map that nobody uses take no memory."""
        checksum, buffer = 0, memoryview(bytearray(_CHECKSUM_BYTES))
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            while size > 0 and (count := file.readinto(buffer[: min(size, len(buffer))])):
                checksum = zlib.crc32(buffer[:count], checksum)
                size -= count
        return checksum


def is_torch_file(path: Path) -> bool:
    """Tell by its content, not its suffix, whether a file was written by `torch.save`.

    True also for the formats of old versions, which are refused with a remedy.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head.startswith(_ZIP_MAGIC) or _is_old(head)


_HEAD_BYTES = 512
_CHECKSUM_BYTES = 2**20


def _is_old(head: bytes) -> bool:
    """Recognise a bare pickle (torch before 1.6) or a tar archive (torch before 0.2)."""
    is_pickle = len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5
    is_safetensors = head[8:9] == b"{"
    return (is_pickle and not is_safetensors) or head[257:262] == b"ustar"


def _require_zip(path: Path, head: bytes) -> None:
    if not head:
        raise ValueError(f"{path} is empty")
    if _is_old(head):
        raise ValueError(
            f"{path} is in the format of torch before 1.6, not read here; {_SAVE_AGAIN}"
        )
    if not head.startswith(_ZIP_MAGIC):
        raise ValueError(f"{path} is no torch checkpoint: {hint(head)}")


class _BoundedFile(io.FileIO):
    """Refuses to read more at once than a sane list of entries needs."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = size
        if wanted is None or wanted < 0:
            wanted = os.fstat(self.fileno()).st_size - self.tell()
        if wanted > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its list of entries is larger than {MAX_DIRECTORY_BYTES} bytes")
        return super().read(wanted)


_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    OverflowError,
    OSError,
    struct.error,
)


def _read_directory(path: Path, file: _BoundedFile) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); {_AGAIN}") from error
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) != len(entries):
        raise ValueError(f"{path} holds two entries of the same name")
    if any(name.split("/")[1:2] == ["code"] for name in by_name):
        raise ValueError(
            f"{path} is TorchScript, a program and not only weights; save the state_dict of the "
            "model with torch.save, or pass the original checkpoint"
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{path} is compressed, unlike files of torch.save; {_SAVE_AGAIN}")
        if entry.flag_bits & 1:
            raise ValueError(f"{path} is encrypted")
        if entry.header_offset < 0:
            raise ValueError(f"{path} is damaged: an entry lies before the file")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError(f"{path} is damaged: its entries are larger than the file")
    return by_name
