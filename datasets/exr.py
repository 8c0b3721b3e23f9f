"""Read one channel of an OpenEXR picture, as depth maps are stored, without another library.

Scan lines, uncompressed or with ZIP or RLE, half or float: what OpenCV and most renderers write.
Reference: "OpenEXR file layout" and "Technical introduction to OpenEXR", openexr.com.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

_MAGIC = 20000630
_TILED, _DEEP, _MULTIPART = 0x200, 0x800, 0x1000
_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_LINES = {0: 1, 1: 1, 2: 1, 3: 16}  # compression -> scan lines of a block: none, RLE, ZIPS, ZIP
_NAMES = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
_PREFERRED = ("Y", "Z", "R", "V", "G", "B")


@dataclass(frozen=True)
class _Header:
    channels: list[tuple[str, np.dtype]]  # in the order of the file, by name
    compression: int
    size: tuple[int, int]  # (height, width) of the data window
    top: int
    offset: int  # of the table of blocks


def read_exr(path: Path) -> Float32[np.ndarray, "h w"]:
    """Read the channel that holds the depth: Y, Z or R, or the only one.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: damaged, tiled, deep, or with another compression.
    """
    data = path.read_bytes()
    try:
        header = _read_header(data, path)
        return _read_lines(data, header)
    except (struct.error, zlib.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is a damaged OpenEXR file: {error}") from error


def write_exr(path: Path, depth: Float32[np.ndarray, "h w"]) -> None:
    """Write one float channel Y, with ZIP, as OpenCV does."""
    height, width = depth.shape
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channel = b"Y\0" + struct.pack("<i4xii", 2, 1, 1) + b"\0"
    attributes = [
        (b"channels", b"chlist", channel),
        (b"compression", b"compression", b"\3"),
        (b"dataWindow", b"box2i", box),
        (b"displayWindow", b"box2i", box),
        (b"lineOrder", b"lineOrder", b"\0"),
        (b"pixelAspectRatio", b"float", struct.pack("<f", 1)),
        (b"screenWindowCenter", b"v2f", struct.pack("<2f", 0, 0)),
        (b"screenWindowWidth", b"float", struct.pack("<f", 1)),
    ]
    parts = [struct.pack("<ii", _MAGIC, 2)]
    parts += [n + b"\0" + k + b"\0" + struct.pack("<i", len(v)) + v for n, k, v in attributes]
    head = b"".join(parts) + b"\0"
    blocks = []
    for top in range(0, height, 16):
        raw = np.ascontiguousarray(depth[top : top + 16], dtype="<f4").tobytes()
        packed = zlib.compress(_interleave(raw))
        packed = packed if len(packed) < len(raw) else raw
        blocks.append(struct.pack("<ii", top, len(packed)) + packed)
    starts = np.cumsum([len(head) + 8 * len(blocks), *map(len, blocks)])[:-1]
    path.write_bytes(head + starts.astype("<u8").tobytes() + b"".join(blocks))


def _read_header(data: bytes, path: Path) -> _Header:
    magic, version = struct.unpack_from("<ii", data, 0)
    if magic != _MAGIC:
        raise ValueError(f"{path} is no OpenEXR file")
    if version & (_TILED | _DEEP | _MULTIPART):
        raise ValueError(
            f"{path}: only flat scan-line pictures are read, this one is tiled or deep"
        )
    position, values = 8, {}
    while data[position] != 0:
        name, position = _text(data, position)
        _, position = _text(data, position)
        (length,) = struct.unpack_from("<i", data, position)
        values[name] = data[position + 4 : position + 4 + length]
        position += 4 + length
    missing = sorted({"channels", "compression", "dataWindow"} - set(values))
    if missing:
        raise ValueError(f"{path} is a damaged OpenEXR file: its header lacks {', '.join(missing)}")
    compression = values["compression"][0]
    if compression not in _LINES:
        name = _NAMES[compression] if compression < len(_NAMES) else str(compression)
        raise ValueError(
            f"{path}: the compression {name} is not understood, only none, RLE and ZIP; write it "
            "anew with one of these, or as .npy"
        )
    left, top, right, bottom = struct.unpack("<4i", values["dataWindow"])
    size = bottom - top + 1, right - left + 1
    return _Header(_channels(values["channels"], path), compression, size, top, position + 1)


def _channels(data: bytes, path: Path) -> list[tuple[str, np.dtype]]:
    position, found = 0, []
    while data[position] != 0:
        name, position = _text(data, position)
        kind, x, y = struct.unpack_from("<i4xii", data, position)
        if kind not in _TYPES or (x, y) != (1, 1):
            raise ValueError(f"{path}: the channel {name} is subsampled or of an unknown type")
        found.append((name, _TYPES[kind]))
        position += 16
    return found


def _read_lines(data: bytes, header: _Header) -> Float32[np.ndarray, "h w"]:
    height, width = header.size
    names = [name for name, _ in header.channels]
    wanted = next((name for name in _PREFERRED if name in names), names[0])
    row_bytes = width * sum(kind.itemsize for _, kind in header.channels)
    start = width * sum(k.itemsize for _, k in header.channels[: names.index(wanted)])
    kind = header.channels[names.index(wanted)][1]
    step = _LINES[header.compression]
    count = -(-height // step)
    depth = np.zeros((height, width), dtype=np.float32)
    for offset in struct.unpack_from(f"<{count}Q", data, header.offset):
        y, length = struct.unpack_from("<ii", data, offset)
        row = y - header.top
        rows = min(step, height - row)
        packed = data[offset + 8 : offset + 8 + length]
        raw = _unpack(packed, header.compression, rows * row_bytes)
        if len(raw) != rows * row_bytes:
            raise IndexError(f"the block of line {y} is short")
        lines = np.frombuffer(raw, dtype=np.uint8).reshape(rows, row_bytes)
        own = np.ascontiguousarray(lines[:, start : start + width * kind.itemsize])
        depth[row : row + rows] = own.view(kind)
    return depth


def _unpack(packed: bytes, compression: int, length: int) -> bytes:
    """Undo the compression of a block; blocks that it would enlarge are stored as they are."""
    if compression == 0 or len(packed) == length:
        return packed
    data = _run_lengths(packed) if compression == 1 else zlib.decompress(packed)
    deltas = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    deltas[1:] -= 128
    merged = (deltas.cumsum() & 255).astype(np.uint8)
    raw = np.empty_like(merged)
    half = (len(merged) + 1) // 2
    raw[0::2], raw[1::2] = merged[:half], merged[half:]
    return raw.tobytes()


def _interleave(raw: bytes) -> bytes:
    """What ZIP compresses: even bytes, then odd ones, as differences."""
    data = np.frombuffer(raw, dtype=np.uint8)
    split = np.concatenate([data[0::2], data[1::2]]).astype(np.int64)
    split[1:] = np.diff(split) + 128
    return (split & 255).astype(np.uint8).tobytes()


def _run_lengths(packed: bytes) -> bytes:
    out, position = bytearray(), 0
    while position < len(packed):
        count = packed[position] - 256 if packed[position] > 127 else packed[position]
        if count < 0:
            out += packed[position + 1 : position + 1 - count]
            position += 1 - count
        else:
            out += packed[position + 1 : position + 2] * (count + 1)
            position += 2
    return bytes(out)


def _text(data: bytes, position: int) -> tuple[str, int]:
    end = data.index(b"\0", position)
    return data[position:end].decode("ascii"), end + 1
