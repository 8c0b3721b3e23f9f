"""A server of the demo in a process of its own, and browsers that visit it without a screen."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A process of its own: Gradio leaves sockets and event loops behind, which are warnings, and so
# errors, in the process of the tests.
SERVER = """
import dataclasses, json, sys
from weav3r import example_photos
from weav3r.demo import app, service, uploads

port, size, limits = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
full_job = service.run_job

def small_job(files, folder, model, options, **more):
    return full_job(files, folder, model, dataclasses.replace(options, size=size), **more)

class ShownSessions(app.Sessions):
    def __init__(self):
        super().__init__()
        print(self.root, flush=True)

service.run_job, app.Sessions = small_job, ShownSessions
app.launch(
    examples=example_photos(), device="cpu", port=port, limits=uploads.Limits(**limits)
)
"""


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        root: its temporary folder.
        size: long side at the network of every run, pixels.
    """

    process: subprocess.Popen[str]
    port: int
    root: Path
    size: int

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(size: int = 64, **limits: int) -> Iterator[Served]:
    """Start a server, and end it as Ctrl-C would."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the extra 'demo' is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER, str(port), str(size), json.dumps(limits)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert process.stdout is not None
    server = Served(process, port, Path(process.stdout.readline().strip()), size)
    try:
        wait_for(server.url, process)
        yield server
    finally:
        process.terminate()
        process.communicate(timeout=60)
    if sys.platform != "win32":  # where a process cannot be asked, only stopped
        assert not server.root.exists(), "the server left its temporary files behind"


def wait_for(url: str, process: subprocess.Popen[str], seconds: float = 180) -> None:
    """Wait until a server answers.

    Raises:
        AssertionError: it does not.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not start")


@dataclass(frozen=True)
class Answer:
    """What a server says."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Visitor:
    """Someone with cookies, who opens no page but knows every route."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = secrets.token_hex(5)
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(CookieJar()), urllib.request.ProxyHandler({})
        )

    def ask(
        self,
        path: str,
        data: bytes | None = None,
        method: str | None = None,
        **headers: str,
    ) -> Answer:
        """Send a request as it is; headers with "_" for "-"."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, named, method=method)
        try:
            with self._opener.open(request, timeout=120) as reply:
                return Answer(reply.status, reply.read(), dict(reply.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers))

    def post(self, path: str, value: Any) -> Answer:
        """Send JSON."""
        return self.ask(path, json.dumps(value).encode(), content_type="application/json")

    def file(self, path: str) -> Answer:
        """Ask for a file of the server."""
        return self.ask(f"/gradio_api/file={path}")

    def upload(self, name: str, data: bytes) -> Answer:
        """Upload one file under any name."""
        line = secrets.token_hex(16)
        head = f'--{line}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        body = f"{head}Content-Type: image/png\r\n\r\n".encode() + data + f"\r\n--{line}--".encode()
        return self.ask(
            "/gradio_api/upload", body, content_type=f"multipart/form-data; boundary={line}"
        )

    def start(self, paths: list[Any], example: str = "", **changed: Any) -> Answer:
        """Press Run with uploads, or with anything else in their place."""
        config = self.ask("/config").json
        values = {c["id"]: c.get("props", {}).get("value") for c in config["components"]}
        (call,) = (c for c in config["dependencies"] if c.get("api_name") == "reconstruct")
        files = [{"path": p, "meta": {"_type": "gradio.FileData"}} for p in paths]
        data = [files, example, *(values[k] for k in call["inputs"][2:])]
        body = {"data": data, "fn_index": call["id"], "session_hash": self.session}
        return self.post("/gradio_api/queue/join", {**body, **changed})

    def run(self, paths: list[str], example: str = "") -> list[dict[str, Any]]:
        """Run, and return what the server said meanwhile."""
        event = self.start(paths, example).json["event_id"]
        url = f"{self.url}/gradio_api/queue/data?session_hash={self.session}"
        messages = []
        with self._opener.open(url, timeout=300) as stream:
            for line in stream:
                if line.startswith(b"data:"):
                    messages.append(json.loads(line[5:]))
                    if messages[-1]["msg"] == "process_completed":
                        assert messages[-1]["event_id"] == event
                        break
        return messages
