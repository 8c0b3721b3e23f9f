"""Checkpoints on the Hugging Face Hub: finding, downloading, sharing.

`huggingface_hub` is imported when a remote checkpoint is asked for, never before. The variables
HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are read at each call.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._hub_errors import how_to_get, no_answer_of_a_hub, translated
from .card import CARD_FILE, Provenance
from .hub_cache import (
    cache_folder,
    cached_file,
    choose_weights,
    endpoint,
    is_offline,
    listing,
    split_hub_id,
)
from .storage import CONFIG_FILE, WEIGHTS_FILE, StorageDtype, read_text

if TYPE_CHECKING:
    from .convert import Layout
    from .two_view import TwoViewModel

logger = logging.getLogger(__name__)

_API_SECONDS = 15.0
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # a hash, or what a mirror makes


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
        ConnectionError: if the Hub cannot be reached, breaks off or talks nonsense.
        ValueError: if it names a file in a way that leads out of the cache.
        OSError: if the disk is full.
    """
    repo, revision = split_hub_id(source, revision)
    cache = cache_folder(cache_dir)
    cached = cached_file(repo, revision, cache)
    if is_offline(offline):
        if cached is None:
            raise FileNotFoundError(how_to_get(repo, revision, cache))
        return cached
    try:
        with _quiet(progress):
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
        raise FileNotFoundError(how_to_get(repo, revision, cache))
    remote = _Remote(repo, revision, cache, source)
    with _quiet(), translated(repo, revision, cache):
        info = _api().model_info(repo, revision=revision, timeout=_API_SECONDS, files_metadata=True)
        files = {str(file.rfilename): file for file in info.siblings or []}
        tags = [str(tag) for tag in info.tags or []]
    chosen = files[remote.require_weights(list(files))]
    with _quiet():
        config = read_text(remote.get(CONFIG_FILE)) if CONFIG_FILE in files else None
    stated = [tag.removeprefix("license:") for tag in tags if "license:" in tag]
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_pretrained(
            model, folder, dtype=dtype, layout=layout, provenance=provenance, repo_id=repo
        )
        files = [CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())]
        with translated(repo, branch, cache_folder()):
            api = _api(token)
            api.create_repo(repo, private=private, exist_ok=True)
            if branch != "main":
                api.create_branch(repo, branch=branch, exist_ok=True)
            text = message or "Upload with weav3r"
            api.create_commit(repo, files, commit_message=text, revision=branch)
    return f"{endpoint()}/{repo}"


@dataclass(frozen=True)
class _Remote:
    repo: str
    revision: str
    cache: Path
    source: str

    def get(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        self._check_names(name)
        with translated(self.repo, self.revision, self.cache):
            path = hf_hub_download(
                self.repo,
                name,
                revision=self.revision,
                cache_dir=self.cache,
                endpoint=endpoint(),
                library_name="weav3r",
            )
        return Path(path)

    def _check_names(self, name: str) -> None:
        """Check what the Hub calls a file and its commit: the client makes paths of that."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        with translated(self.repo, self.revision, self.cache):
            url = hf_hub_url(self.repo, name, revision=self.revision, endpoint=endpoint())
            found = get_hf_file_metadata(url, timeout=_API_SECONDS, library_name="weav3r")
        for value in (found.etag, found.commit_hash):
            if not value:
                raise no_answer_of_a_hub(self.repo)
            if ".." in value or not _SAFE_NAME.fullmatch(value):
                raise ValueError(
                    f"the Hub at {endpoint()} calls a file of {self.repo} {ascii(value[:100])}, "
                    "which may lead out of the cache; nothing was downloaded, do not trust it"
                )

    def names(self) -> list[str] | None:
        """List the files of the repository; None where a plain mirror has no listing."""
        from huggingface_hub.utils import HfHubHTTPError, RepositoryNotFoundError
        from huggingface_hub.utils import RevisionNotFoundError as RevisionMissing

        with translated(self.repo, self.revision, self.cache):
            try:
                info = _api().model_info(self.repo, revision=self.revision, timeout=_API_SECONDS)
            except (RepositoryNotFoundError, RevisionMissing):
                raise
            except HfHubHTTPError as error:
                if error.response is not None and error.response.status_code in (404, 405, 501):
                    return None
                raise
            return [str(file.rfilename) for file in info.siblings or []]

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
        text = read_text(remote.get(CONFIG_FILE))
        if check is not None and weights == WEIGHTS_FILE:
            check(text, remote.source)
    if names is not None and CARD_FILE in names:
        remote.get(CARD_FILE)
    return remote.get(weights)


def _api(token: str | None = None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), token=token, library_name="weav3r")


@contextmanager
def _quiet(progress: bool = False) -> Iterator[None]:
    """Keep what the client logs about retries, and its bars, from the user who did not ask."""
    from huggingface_hub.utils import logging as client_logging

    level = client_logging.get_verbosity()
    if os.environ.get("HF_HUB_VERBOSITY") is None:
        client_logging.set_verbosity_error()
    try:
        with _progress_bars(progress):
            yield
    finally:
        client_logging.set_verbosity(level)


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
