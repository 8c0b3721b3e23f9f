"""The errors of the Hub's client in terms of what a user can do about them."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .hub_cache import PUBLISHED_IDS, cached_ids, endpoint
from .storage import CONFIG_FILE, WEIGHTS_FILE


@contextmanager
def translated(repo: str, revision: str, cache: Path) -> Iterator[None]:
    """Turn the errors of the Hub's client into built-in ones that say what to do.

    Only calls of the client belong inside: what it cannot make sense of is blamed on the answer.
    """
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
        raise FileNotFoundError(how_to_get(repo, revision, cache)) from error
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
    except hf.HFValidationError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] in _TRANSPORT:
            raise ConnectionError(_unreachable(repo, error)) from error
        if isinstance(error, _SENSELESS):
            raise no_answer_of_a_hub(repo) from error
        raise


def no_answer_of_a_hub(repo: str) -> ConnectionError:
    """Give the error for an answer that is not in the Hub's protocol."""
    return ConnectionError(
        f"what {endpoint()} answers for {repo} is no answer of a Hub; check HF_ENDPOINT and the "
        "connection (does a captive portal or a proxy answer in its place?), or pass a local "
        "folder or file"
    )


_SENSELESS = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)
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


def how_to_get(repo: str, revision: str, cache: Path) -> str:
    """Say what to do when a checkpoint is not here and the network must not be used."""
    option = "" if revision == "main" else f" --revision {revision}"
    return (
        f"{repo} (revision {revision}) is not in {cache} and the network must not be used; run "
        f"`weav3r models download {repo}{option}` where there is a connection, or put its "
        f"{CONFIG_FILE} and {WEIGHTS_FILE} into a folder and pass that folder"
    )
