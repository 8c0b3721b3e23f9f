"""Checkpoints on the Hugging Face Hub: finding, downloading, sharing.

`huggingface_hub` is imported when a remote checkpoint is asked for, never before. The variables
HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are read at each call.
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .card import CARD_FILE, Provenance
from .storage import CONFIG_FILE, WEIGHTS_FILE, StorageDtype

if TYPE_CHECKING:
    from .convert import Layout
    from .two_view import TwoViewModel

# The Hub ids that the presets without bundled weights stand for.
PUBLISHED_OWNER = "naver/"
PUBLISHED_IDS = {
    "dust3r-224-linear": PUBLISHED_OWNER + "DUSt3R_ViTLarge_BaseDecoder_224_linear",
    "dust3r-512-linear": PUBLISHED_OWNER + "DUSt3R_ViTLarge_BaseDecoder_512_linear",
    "dust3r-512-dpt": PUBLISHED_OWNER + "DUSt3R_ViTLarge_BaseDecoder_512_dpt",
    "mast3r-512": PUBLISHED_OWNER + "MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
}

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".json")
_API_SECONDS = 15.0


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
    """Choose the weights among the files of a folder: `model.safetensors`, else the only `.pth`."""
    names = set(names)
    if WEIGHTS_FILE in names:
        return WEIGHTS_FILE
    others = [name for name in names if name.endswith(".pth")]
    return others[0] if len(others) == 1 else None


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Write a list of file names for a message."""
    shown = sorted(names)
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


def download(
    source: str,
    revision: str | None = None,
    *,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
    check: Callable[[str, str], object] | None = None,
) -> Path:
    """Bring a checkpoint of the Hub into the cache, if it is not there.

    Where the Hub cannot be reached, or has it no more, a cached copy is taken with a warning.

    Args:
        source: `owner/name` or `owner/name@revision`.
        revision: branch, tag or commit.
        offline: take only what is in the cache; None follows HF_HUB_OFFLINE.
        cache_dir: None follows HF_HUB_CACHE and HF_HOME.
        progress: show progress bars.
        check: called with the text of `config.json` and the source before the weights are
            downloaded; its errors end the download.

    Returns:
        The weights file in the cache; configuration and model card lie beside it.

    Raises:
        FileNotFoundError: if there is no such repository, revision or weights file, or nothing in
            the cache when offline.
        PermissionError: if the repository is gated or private, or the token is not valid.
        ConnectionError: if the Hub cannot be reached or breaks off.
        OSError: if the disk is full.
    """
    repo, revision = split_hub_id(source, revision)
    cache = cache_folder(cache_dir)
    cached = cached_file(repo, revision, cache)
    if is_offline(offline):
        if cached is None:
            raise FileNotFoundError(_how_to_get(repo, revision, cache))
        return cached
    try:
        with _translated(repo, revision, cache), _progress_bars(progress):
            return _fetch(_Remote(repo, revision, cache, source), check)
    except (ConnectionError, PermissionError, FileNotFoundError) as error:
        if cached is None:
            raise
        logger.warning("%s; using the copy in the cache", error)
        return cached


@dataclass(frozen=True)
class RemoteFile:
    """A weights file on the Hub that is not downloaded.

    Attributes:
        name: in the repository.
        bytes: its size, None when the Hub does not say.
        sha256: None when the Hub does not say.
        licence: as the repository states it, "" when it does not.
        config: text of its `config.json`, None when there is none.
    """

    name: str
    bytes: int | None
    sha256: str | None
    licence: str
    config: str | None


def describe(
    source: str, revision: str | None = None, *, offline: bool | None = None
) -> RemoteFile:
    """Ask the Hub about a checkpoint; the weights are not downloaded.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: see `download`.
    """
    repo, revision = split_hub_id(source, revision)
    cache = cache_folder()
    if is_offline(offline):
        raise FileNotFoundError(_how_to_get(repo, revision, cache))
    with _translated(repo, revision, cache), _progress_bars(False):
        remote = _Remote(repo, revision, cache, source)
        info = _api().model_info(repo, revision=revision, timeout=_API_SECONDS, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings or []}
        chosen = files[remote.require_weights(list(files))]
        config = remote.get(CONFIG_FILE).read_text("utf-8") if CONFIG_FILE in files else None
        stated = [tag.removeprefix("license:") for tag in info.tags or [] if "license:" in tag]
        sha256 = chosen.lfs.sha256 if chosen.lfs else None
        return RemoteFile(chosen.rfilename, chosen.size, sha256, "".join(stated[:1]), config)


def push_to_hub(
    model: TwoViewModel,
    repo_id: str,
    *,
    dtype: StorageDtype = "float32",
    layout: Layout = "weav3r",
    provenance: Provenance | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a network with its configuration and model card; see `TwoViewModel.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd

    from .convert import save_pretrained

    repo, branch = split_hub_id(repo_id, revision)
    if is_offline():
        raise ConnectionError(f"cannot upload {repo}: HF_HUB_OFFLINE forbids the network")
    with tempfile.TemporaryDirectory() as name, _translated(repo, branch, cache_folder()):
        folder = Path(name)
        save_pretrained(
            model, folder, dtype=dtype, layout=layout, provenance=provenance, repo_id=repo
        )
        api = _api(token)
        api.create_repo(repo, private=private, exist_ok=True)
        if branch != "main":
            api.create_branch(repo, branch=branch, exist_ok=True)
        api.create_commit(
            repo,
            [CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())],
            commit_message=message or "Upload with weav3r",
            revision=branch,
        )
    return f"{endpoint()}/{repo}"


@dataclass(frozen=True)
class _Remote:
    repo: str
    revision: str
    cache: Path
    source: str

    def get(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(
            self.repo,
            name,
            revision=self.revision,
            cache_dir=self.cache,
            endpoint=endpoint(),
            library_name="weav3r",
        )
        return Path(path)

    def names(self) -> list[str] | None:
        """List the files of the repository; None where a plain mirror has no listing."""
        from huggingface_hub.utils import HfHubHTTPError, RepositoryNotFoundError
        from huggingface_hub.utils import RevisionNotFoundError as RevisionMissing

        try:
            info = _api().model_info(self.repo, revision=self.revision, timeout=_API_SECONDS)
        except (RepositoryNotFoundError, RevisionMissing):
            raise
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in (404, 405, 501):
                return None
            raise
        return [file.rfilename for file in info.siblings or []]

    def require_weights(self, names: list[str]) -> str:
        weights = choose_weights(names)
        if weights is None:
            raise FileNotFoundError(
                f"{self.repo} on the Hub holds no {WEIGHTS_FILE} and no single .pth file; "
                f"it holds {listing(names)}"
            )
        return weights


def _fetch(remote: _Remote, check: Callable[[str, str], object] | None) -> Path:
    names = remote.names()
    weights = WEIGHTS_FILE if names is None else remote.require_weights(names)
    if names is None or CONFIG_FILE in names:
        text = remote.get(CONFIG_FILE).read_text(encoding="utf-8", errors="replace")
        if check is not None and weights == WEIGHTS_FILE:
            check(text, remote.source)
    if names is not None and CARD_FILE in names:
        remote.get(CARD_FILE)
    return remote.get(weights)


def _api(token: str | None = None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), token=token, library_name="weav3r")


@contextmanager
def _progress_bars(show: bool) -> Iterator[None]:
    """Switch the bars of `huggingface_hub` off, unless the user's environment decides."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    decided = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") is not None
    if show or decided or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _translated(repo: str, revision: str, cache: Path) -> Iterator[None]:
    """Turn the errors of the Hub's client into built-in ones that say what to do."""
    from huggingface_hub import utils as hf

    try:
        yield
    except hf.GatedRepoError as error:
        raise PermissionError(
            f"{repo} is gated: accept its terms at {endpoint()}/{repo}, then set HF_TOKEN "
            "to a token of that account (or run `hf auth login`)"
        ) from error
    except hf.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo} on the Hub has no revision {revision!r}") from error
    except hf.RepositoryNotFoundError as error:
        raise FileNotFoundError(_not_found(repo)) from error
    except hf.OfflineModeIsEnabled as error:
        raise FileNotFoundError(_how_to_get(repo, revision, cache)) from error
    except hf.LocalEntryNotFoundError as error:
        raise ConnectionError(_unreachable(repo, error.__cause__ or error)) from error
    except hf.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo} on the Hub, revision {revision}, lacks {CONFIG_FILE} or {WEIGHTS_FILE}"
        ) from error
    except hf.HfHubHTTPError as error:
        raise _of_status(repo, error) from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:  # the client's size check
            raise ConnectionError(f"the download of {repo} broke off; run it again") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"no space left for {repo}", str(cache)) from error
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _TRANSPORT:
            raise ConnectionError(_unreachable(repo, error)) from error
        raise


_TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


def _of_status(repo: str, error: Any) -> Exception:
    from huggingface_hub import get_token

    status = None if error.response is None else error.response.status_code
    if status == 404 or (status == 401 and get_token() is None):
        return FileNotFoundError(_not_found(repo))
    if status in (401, 403):
        return PermissionError(
            f"the Hub refuses access to {repo} (HTTP {status}): check the token in HF_TOKEN and "
            "what it may do"
        )
    if status == 507:
        return OSError(errno.ENOSPC, f"the Hub has no space left for {repo}")
    return ConnectionError(f"the Hub at {endpoint()} answered HTTP {status} for {repo}: {error}")


def _unreachable(repo: str, error: BaseException) -> str:
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return (
        f"cannot reach the Hub at {endpoint()} for {repo} ({reason[0]}); check the connection, "
        "set HF_ENDPOINT to a mirror, or pass a local folder or file"
    )


def _not_found(repo: str) -> str:
    known = [*PUBLISHED_IDS.values(), *cached_ids()]
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(repo.lower(), lower, n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(lower[name] for name in near)}?" if near else ""
    return (
        f"{repo!r} is no local folder, and the Hub at {endpoint()} has no such repository or it "
        f"is private (then set HF_TOKEN){hint}"
    )


def _how_to_get(repo: str, revision: str, cache: Path) -> str:
    option = "" if revision == "main" else f" --revision {revision}"
    return (
        f"{repo} (revision {revision}) is not in {cache} and the network must not be used; run "
        f"`weav3r models download {repo}{option}` where there is a connection, or put its "
        f"{CONFIG_FILE} and {WEIGHTS_FILE} into a folder and pass that folder"
    )
