"""Licences of single files: Debian copyright files, wheel metadata, and what each licence allows.

The copyright format is Debian's machine-readable one (DEP 5, "Machine-readable debian/copyright
file", version 1.0): stanzas of `Files:` patterns, where the last matching stanza decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import Literal

Tier = Literal["A", "B", "C"]
"""A: public domain or permissive. B: CC-BY, to be attributed. C: anything else, not to be used."""

_RESTRICTED = re.compile(
    r"gpl|gfdl|share|\b(sa|nc|nd)\b|free-art|non-?commercial|proprietary|unknown", re.IGNORECASE
)
_PERMISSIVE = re.compile(
    r"public[- ]domain|\bcc-?0|\b(mit|expat|[\w-]*bsd|apache|zlib|isc)\b", re.IGNORECASE
)
_ATTRIBUTION = re.compile(r"\bcc[- ]by\b", re.IGNORECASE)


def licence_tier(licence: str) -> Tier:
    """Sort a licence name or expression into a tier.

    Of `X or Y` the better counts, of `X and Y` the worse. Unknown names are tier C.
    """
    alternatives = re.split(r"\s+or\s+|\s*\|\s*", licence.strip(), flags=re.IGNORECASE)
    return min(_tier_of_all(alternative) for alternative in alternatives)


def _tier_of_all(licence: str) -> Tier:
    parts = re.split(r"\s+and\s+|\s*[,/]\s*", licence, flags=re.IGNORECASE)
    return max(_tier_of_one(part) for part in parts)


def _tier_of_one(licence: str) -> Tier:
    if _RESTRICTED.search(licence):
        return "C"
    if _PERMISSIVE.search(licence):
        return "A"
    return "B" if _ATTRIBUTION.search(licence) else "C"


@dataclass(frozen=True)
class FileLicence:
    """What a copyright file says about one file.

    Attributes:
        licence: short name as written there.
        author: the copyright line, white space collapsed.
        note: the rest of the licence field and the comment, where origins are told.
    """

    licence: str
    author: str
    note: str = ""


@dataclass(frozen=True)
class DebianCopyright:
    """A parsed debian/copyright file: (patterns, licence) in the order of the file."""

    stanzas: tuple[tuple[re.Pattern[str], FileLicence], ...]

    @classmethod
    def parse(cls, text: str) -> DebianCopyright:
        """Read the `Files:` stanzas; others (header, licence texts) are ignored."""
        stanzas = []
        for block in re.split(r"\n[ \t]*\n", text):
            fields = _fields(block)
            if "files" not in fields or "license" not in fields:
                continue
            name, _, body = fields["license"].partition("\n")
            note = " ".join(f"{body} {fields.get('comment', '')}".split())
            author = " ".join(fields.get("copyright", "").split())
            patterns = "|".join(_pattern(glob) for glob in fields["files"].split())
            stanzas.append((re.compile(patterns), FileLicence(name.strip(), author, note)))
        return cls(tuple(stanzas))

    def lookup(self, path: str) -> FileLicence | None:
        """Licence of a path relative to the source tree; None when no stanza matches."""
        for patterns, licence in reversed(self.stanzas):
            if patterns.fullmatch(path):
                return licence
        return None


def _fields(block: str) -> dict[str, str]:
    """Split a stanza into its fields; continuation lines start with white space."""
    fields: dict[str, str] = {}
    name = None
    for line in block.splitlines():
        if line.startswith("#"):
            continue
        match = re.match(r"([A-Za-z-]+):[ \t]*(.*)", line)
        if match:
            name = match[1].lower()
            fields[name] = match[2]
        elif name is not None and line[:1].isspace():
            fields[name] += "\n" + line.strip()
    return fields


def _pattern(glob: str) -> str:
    r"""Regular expression of a DEP 5 pattern: `*` and `?` also match slashes, `\` quotes."""
    out = []
    for quoted, plain in re.findall(r"\\(.)|(.)", glob):
        out.append(
            re.escape(quoted) if quoted else {"*": ".*", "?": "."}.get(plain) or re.escape(plain)
        )
    return "".join(out)


def declared_licence(metadata: str, licence_text: str = "") -> str:
    """Licence that a wheel declares; "unknown" when it declares none.

    Args:
        metadata: text of METADATA; its licence fields count first, then its classifiers.
        licence_text: text of the licence file, of which only a title line is understood.
    """
    headers = HeaderParser().parsestr(metadata)
    for field in ("License-Expression", "License"):
        value = (headers.get(field) or "").strip()
        if value:
            return value.splitlines()[0]
    for classifier in headers.get_all("Classifier") or []:
        if classifier.startswith("License :: "):
            return classifier.rsplit(" :: ", 1)[1]
    title = licence_text.strip().partition("\n")[0].strip()
    return title if title in ("MIT License", "Apache License") else "unknown"
