"""Names of uploaded files: what is shown of them, and what they are called on the disk.

A name comes from outside and is never used as a path. The file gets a new name of plain letters, in
which the person still recognises the own one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set

MAX_SHOWN = 60
"""Longest name in a message, characters."""

_MAX_STEM = 40
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def shown_name(name: str) -> str:
    """The last part of a name as one short line: no control characters, no reversed writing.

    The result is text. Where it becomes part of a page it still has to be escaped.
    """
    last = re.split(r"[/\\]", name)[-1]
    # Categories C*: control, surrogate, and format, which turns the direction of writing around.
    visible = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in last)
    line = " ".join(visible.split())
    if len(line) > MAX_SHOWN:
        half = (MAX_SHOWN - 1) // 2
        line = f"{line[:half]}…{line[-half:]}"
    return line or "a file without a name"


def safe_name(name: str, suffix: str, taken: Set[str]) -> str:
    """A name for the disk, made of A-Z, a-z, 0-9, ".", "_" and "-", with `suffix` at its end.

    Args:
        name: as it came; accents are taken off, other writing is left out.
        suffix: what the content asks for, such as ".jpg"; the suffix of `name` is replaced by it.
        taken: names in lower case that are in use: no two differ by upper and lower case only.
    """
    last = re.split(r"[/\\]", name)[-1]
    stem = last.rpartition(".")[0] or last
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    plain = _NOT_PLAIN.sub("_", plain)[:_MAX_STEM].strip("._-")
    if not any(c.isalnum() for c in plain):
        plain = "photo"
    if _WINDOWS_DEVICE.fullmatch(plain):
        plain = f"photo_{plain}"
    found, number = f"{plain}{suffix}", 1
    while found.lower() in taken:
        number += 1
        found = f"{plain}-{number}{suffix}"
    return found
