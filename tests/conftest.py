"""The command run in this process, and a small Hugging Face Hub on 127.0.0.1."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from rich.logging import RichHandler

Files = dict[str, bytes | Path]  # a path stands for a file too large for memory


@dataclass
class LocalHub:
    """The state of the server, open to the tests.

    Attributes:
        home: HF_HOME of the test.
        revisions: files by repository, then by branch, tag or commit.
        gated: repositories that ask for a token.
        hidden: repositories that answer 401, as missing ones do without a token.
        has_api: whether the server lists files; plain mirrors do not.
        broken_off: how many of the next GETs of weights end half way.
        status: when not None, what every request is answered with.
        listing: when not None, the body that takes the place of the list of files.
        headers: sent in place of those of the same names with every file.
        requests: method and path of every request.
        tokens: every Authorization header that came.
        server: answers in a thread.
        gone: whether it was stopped.
    """

    home: Path
    revisions: dict[str, dict[str, Files]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    has_api: bool = True
    broken_off: int = 0
    status: int | None = None
    listing: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None
    gone: bool = False

    def publish(self, repo: str, folder: Path, revision: str = "main", large: bool = False) -> None:
        """Put the files of a folder into a repository; large ones are left where they are."""
        files: Files = {file.name: file.read_bytes() for file in folder.iterdir() if not large}
        files |= {file.name: file for file in folder.iterdir() if large}
        self.revisions.setdefault(repo, {})[revision] = files

    def stop(self) -> None:
        """Go away; open connections end, later ones are refused."""
        self.gone = True
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


def digest_of(data: bytes | Path) -> str:
    """Name a file by its content, or a large one by where it is."""
    return hashlib.sha256(data if isinstance(data, bytes) else str(data).encode()).hexdigest()


def size_of(data: bytes | Path) -> int:
    """Count the bytes of a file."""
    return len(data) if isinstance(data, bytes) else data.stat().st_size


def commit_of(files: Files) -> str:
    """Name a state of a repository by its files."""
    names = "".join(f"{name} {digest_of(data)}\n" for name, data in sorted(files.items()))
    return hashlib.sha1(names.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.tokens.append(self.headers.get("authorization", ""))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.hub.gone:
            self.close_connection = True
        elif self.hub.status is not None:
            self._reply(self.hub.status)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], found[3])
        else:
            self._write(path, body)

    def _reply(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, data: object) -> None:
        self._reply(200, json.dumps(data).encode(), Content_Type="application/json")

    def _files(self, repo: str, revision: str) -> Files | None:
        """Find a state of a repository, or answer with the error of the Hub."""
        allowed = self.headers.get("authorization") == "Bearer hf_secret"
        states = self.hub.revisions.get(repo)
        if repo in self.hub.hidden and not allowed:
            self._reply(401)
        elif states is None:
            self._reply(404, X_Error_Code="RepoNotFound")
        elif repo in self.hub.gated and not allowed and "/resolve/" in self.path:
            self._reply(403, X_Error_Code="GatedRepo", X_Error_Message="restricted")
        else:
            by_commit = {commit_of(files): files for files in states.values()}
            files = states.get(revision) or by_commit.get(revision)
            if files is not None:
                return files
            self._reply(404, X_Error_Code="RevisionNotFound")
        return None

    def _info(self, repo: str, revision: str) -> None:
        if self.hub.listing is not None:
            self._reply(200, self.hub.listing)
            return
        if not self.hub.has_api:
            self._reply(404)
            return
        files = self._files(repo, revision)
        if files is None:
            return
        siblings = [
            {"rfilename": name, "size": size_of(data), "lfs": _lfs(name, data)}
            for name, data in files.items()
        ]
        card = files.get("README.md", b"")
        tags = re.findall(rb"^license: *(\S+)", card if isinstance(card, bytes) else b"", re.M)
        self._json(
            {
                "id": repo,
                "sha": commit_of(files),
                "siblings": siblings,
                "tags": [f"license:{tag.decode()}" for tag in tags],
            }
        )

    def _file(self, repo: str, revision: str, name: str) -> None:
        files = self._files(repo, revision)
        if files is None:
            return
        commit = commit_of(files)
        if name not in files:
            self._reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        data = files[name]
        headers = {
            "ETag": f'"{digest_of(data)}"',
            "X_Repo_Commit": commit,
            "Accept_Ranges": "bytes",
            **self.hub.headers,
        }
        if "Location" in headers:
            self._reply(302, b"", **headers)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        start = int(wanted[1]) if wanted else 0
        if isinstance(data, bytes) and self.command == "GET" and self._breaks_off(name):
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
        elif isinstance(data, bytes) and wanted:
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._reply(206, data[start:], Content_Range=span, **headers)
        else:
            self._reply(200, b"", **{"Content_Length": size_of(data), **headers})
            if self.command == "GET":
                with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as stream:
                    shutil.copyfileobj(stream, self.wfile, 2**20)

    def _breaks_off(self, name: str) -> bool:
        broken = self.hub.broken_off > 0 and name.endswith(".safetensors")
        self.hub.broken_off -= broken
        return broken

    def _write(self, path: str, body: bytes) -> None:
        """Answer the requests of an upload; files come inside the commit, as base64."""
        if self.headers.get("authorization") != "Bearer hf_secret":
            self._reply(403, X_Error_Message="the token may not write")
        elif path == "/api/repos/create":
            data = json.loads(body)
            repo = f"{data.get('organization') or 'me'}/{data['name']}"
            url = json.dumps({"url": f"http://{self.headers['host']}/{repo}"}).encode()
            self._reply(409 if repo in self.hub.revisions else 200, url)
            self.hub.revisions.setdefault(repo, {"main": {}})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": name, **modes} for name in names]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            states = self.hub.revisions[found[1]]
            states[found[2]] = dict(states["main"])
            self._json({})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            files = self.hub.revisions[found[1]][found[2]]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    files[value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['host']}/{found[1]}/commit/{commit_of(files)}"
            self._json({"success": True, "commitOid": commit_of(files), "commitUrl": url})
        else:
            self._reply(404)


def _lfs(name: str, data: bytes | Path) -> dict[str, object] | None:
    if not name.endswith((".safetensors", ".pth")):
        return None
    return {"sha256": digest_of(data), "size": size_of(data), "pointerSize": 130}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Give an empty Hub; cache and tokens of the user are out of reach."""
    state = LocalHub(home=tmp_path / "hf")
    state.server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"hub": state}))
    thread = threading.Thread(target=state.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(state.home))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{state.server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    state.stop()
    thread.join(5)


@dataclass(frozen=True)
class Outcome:
    """Exit status and the two streams of a run."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def fresh_logging() -> None:
    """Take back what the command, run by an earlier test, set up for its whole process."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, RichHandler):
            root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("weav3r.models").setLevel(logging.NOTSET)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, as the console script does."""
    from weav3r.cli import main

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # what --offline changes comes back after the test
    monkeypatch.delenv("WEAV3R_DEBUG", raising=False)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["weav3r", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return call
