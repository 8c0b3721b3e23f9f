"""Names on the Hugging Face Hub and what lies in its cache; no network, no client."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ._foreign import printable
from .storage import WEIGHTS_FILE

# The Hub ids that the presets without bundled weights stand for.
PUBLISHED_OWNER = "naver/"
PUBLISHED_IDS = {
    "dust3r-224-linear": PUBLISHED_OWNER + "DUSt3R_ViTLarge_BaseDecoder_224_linear",
    "dust3r-512-linear": PUBLISHED_OWNER + "DUSt3R_ViTLarge_BaseDecoder_512_linear",
    "dust3r-512-dpt": PUBLISHED_OWNER + "DUSt3R_ViTLarge_BaseDecoder_512_dpt",
    "mast3r-512": PUBLISHED_OWNER + "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
}

_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".json")


def is_hub_id(source: str) -> bool:
    """Whether a text reads `owner/name` or `owner/name@revision`, and not like a file."""
    return _HUB_ID.fullmatch(source) is not None and not source.endswith(_FILE_SUFFIXES)


def split_hub_id(source: str, revision: str | None = None) -> tuple[str, str]:
    """Take a Hub id apart.

    Returns:
        The repository and the revision, "main" when none is asked for.

    Raises:
        ValueError: if it is no Hub id, or two different revisions are asked for.
    """
    found = _HUB_ID.fullmatch(source)
    if found is None:
        raise ValueError(f"{source!r} is no Hub id; expected owner/name or owner/name@revision")
    if revision is not None and found["revision"] not in (None, revision):
        raise ValueError(f"{source!r} and revision={revision!r} ask for two revisions; give one")
    return found["repo"], revision or found["revision"] or "main"


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Find where files of the Hub are kept: an explicit folder, else by the environment."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    env = os.environ
    named = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    home = env.get("HF_HOME") or f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(os.path.expandvars(named or f"{home}/hub")).expanduser()


def endpoint() -> str:
    """Give the address of the Hub, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_offline(offline: bool | None = None) -> bool:
    """Whether the network must not be used: as asked for, else by HF_HUB_OFFLINE."""
    if offline is not None:
        return offline
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def choose_weights(names: Iterable[str]) -> str | None:
    """Choose the weights among the files of a folder: `model.safetensors`, else the only `.pth`.

    Files in folders below it are none of its own.
    """
    names = set(names)
    if WEIGHTS_FILE in names:
        return WEIGHTS_FILE
    others = [name for name in names if name.endswith(".pth") and not set(name) & set("/\\")]
    return others[0] if len(others) == 1 else None


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Write a list of file names for a message."""
    shown = sorted(printable(name, 100) for name in names)
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(shown[:limit]) or "nothing") + more


def cached_file(
    source: str, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path | None:
    """Find the weights file of a Hub id in the cache, or None; the network is not used."""
    repo, revision = split_hub_id(source, revision)
    folder = cache_folder(cache_dir) / f"models--{repo.replace('/', '--')}"
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / commit
    if not snapshot.is_dir():
        return None
    name = choose_weights(entry.name for entry in snapshot.iterdir() if entry.exists())
    return None if name is None else snapshot / name


def cached_ids(cache_dir: str | Path | None = None) -> list[str]:
    """List the Hub ids whose main revision is in the cache with a weights file."""
    found = []
    for folder in sorted(cache_folder(cache_dir).glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        if is_hub_id(repo) and cached_file(repo, cache_dir=cache_dir) is not None:
            found.append(repo)
    return found
