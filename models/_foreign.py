"""What files and texts of others may be: hints for messages, and safe forms to print."""

from __future__ import annotations

from collections.abc import Iterable

ACCEPTED = (
    "a checkpoint is a .safetensors file, a .pth file of DUSt3R or MASt3R, or a folder with "
    "config.json and model.safetensors"
)

_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"RIFF")


def hint(head: bytes) -> str:
    """Say what a file that is no checkpoint is, by its first bytes, and what to do.

    Args:
        head: about 500 bytes.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page: a link was saved in place of the file, or a login is needed"
    if text.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer: fetch the file itself with `git lfs pull`"
    if head.startswith(_PICTURES):
        return f"it is a picture; {ACCEPTED}"
    return ACCEPTED


def printable(text: str, limit: int = 200) -> str:
    """Clip a text of a file and escape its control characters, to print or log it."""
    clipped = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in clipped
    )


def wrapper_prefix(keys: Iterable[str]) -> str:
    """Find what a wrapper puts before all names of the weights, such as "module."; else ""."""
    names = list(keys)
    start = next((name for name in names if "enc_blocks." in name), "")
    prefix = start.partition("enc_blocks.")[0]
    return prefix if all(name.startswith(prefix) for name in names) else ""


def refuse_prefix(keys: Iterable[str]) -> None:
    """Refuse weights that were saved from inside a wrapper.

    Raises:
        ValueError: naming the prefix once, and the remedy.
    """
    prefix = wrapper_prefix(keys)
    if prefix:
        shown = printable(prefix, 60)
        raise ValueError(
            f"all names of the weights begin with {shown!r}, as DistributedDataParallel and other "
            f"wrappers add it; save the state_dict of the network inside, or take {shown!r} off "
            "every name"
        )
