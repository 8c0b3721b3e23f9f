"""Many people at once on the demo page: do all get their scene, and none anyone else's?

    python benchmarks/bench_demo.py --users 20 --size 64

A server of its own is started on this computer. Every user is a browser of its own as far as the
server can tell: it uploads two photos that nobody else has, runs, follows the queue, fetches its
results, and then asks for every file of all the others.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from statistics import median
from typing import Any

import numpy as np
import psutil
from PIL import Image

import weav3r
from weav3r.evaluation.provenance import describe_environment

SERVER = """
import dataclasses, sys
from weav3r.demo import app, service
port, size = int(sys.argv[1]), int(sys.argv[2])
run_job = service.run_job
def small_job(files, folder, model, options, **more):
    return run_job(files, folder, model, dataclasses.replace(options, size=size), **more)
service.run_job = small_job
app.launch(port=port, device="cpu")
"""


class User(threading.Thread):
    """One person with a browser.

    Attributes:
        files: addresses on the server of what was uploaded and received.
        state: how the run ended.
        most_ahead: longest line that was seen in front of the own run.
        times_s: seconds by step.
    """

    def __init__(self, url: str, number: int) -> None:
        super().__init__()
        self.url, self.number = url, number
        self.session = secrets.token_hex(5)
        self.files: set[str] = set()
        self.uploads: list[str] = []
        self.state, self.most_ahead, self.failure = "", 0, ""
        self.times_s: dict[str, float] = {}
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(CookieJar()), urllib.request.ProxyHandler({})
        )

    def run(self) -> None:
        """Open the page, upload, run."""
        try:
            start = time.perf_counter()
            self._open("/").read()
            self.uploads = [self._upload(*photo) for photo in self._photos()]
            self.files.update(self.uploads)
            self.times_s["upload"] = time.perf_counter() - start
            self._reconstruct()
            self.times_s["scene"] = time.perf_counter() - start
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def status_of(self, path: str) -> int:
        """What the server answers when this user asks for a file."""
        try:
            with self._open(f"/gradio_api/file={path}") as reply:
                reply.read()
                return reply.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def run_with(self, paths: list[str]) -> int:
        """What the server answers when this user runs with these uploads."""
        try:
            self._join(paths)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        return 200

    def _open(self, path: str, data: bytes | None = None, kind: str = "application/json") -> Any:
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind})
        return self._opener.open(request, timeout=1800)

    def _photos(self) -> list[tuple[str, bytes]]:
        """Two photos that no other user has."""
        found = []
        for photo in sorted(weav3r.example_photos()["toy"].iterdir()):
            with Image.open(photo) as image:
                pixels = np.array(image.convert("RGB"))
            pixels[:4, :4] = self.number
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            found.append((f"{photo.stem}.png", file.getvalue()))
        return found

    def _upload(self, name: str, data: bytes) -> str:
        line = secrets.token_hex(16)
        head = f'--{line}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        body = f"{head}Content-Type: image/png\r\n\r\n".encode() + data + f"\r\n--{line}--".encode()
        with self._open("/gradio_api/upload", body, f"multipart/form-data; boundary={line}") as it:
            return json.load(it)[0]

    def _join(self, paths: list[str]) -> str:
        with self._open("/config") as reply:
            config = json.load(reply)
        values = {c["id"]: c.get("props", {}).get("value") for c in config["components"]}
        calls = [c for c in config["dependencies"] if c.get("api_name") == "reconstruct"]
        files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
        data = [files, *(values[k] for k in calls[0]["inputs"][1:])]
        call = {"data": data, "fn_index": calls[0]["id"], "session_hash": self.session}
        with self._open("/gradio_api/queue/join", json.dumps(call).encode()) as reply:
            return json.load(reply)["event_id"]

    def _reconstruct(self) -> None:
        event = self._join(self.uploads)
        with self._open(f"/gradio_api/queue/data?session_hash={self.session}") as stream:
            for line in stream:
                if not line.startswith(b"data:"):
                    continue
                text = line.decode()
                message = json.loads(text[5:])
                self.files.update(re.findall(r'"path": ?"([^"]+)"', text))
                for ahead in re.findall(r"(\d+|one) runs? comes? first", text):
                    self.most_ahead = max(self.most_ahead, 1 if ahead == "one" else int(ahead))
                if states := re.findall(r'data-state=\\"(\w+)', text):
                    self.state = states[-1]
                if message.get("event_id") == event and message["msg"] == "process_completed":
                    return


def start_server(size: int) -> tuple[psutil.Popen, str]:
    """Start the demo on a free port and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = psutil.Popen(
        [sys.executable, "-P", "-c", SERVER, str(port), str(size)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    url = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None:
        try:
            with opener.open(url):
                return process, url
        except OSError:
            time.sleep(0.3)
    raise RuntimeError("the server did not start")


def measure(users: int, size: int) -> dict[str, Any]:
    """Let that many people use a new server at the same time."""
    server, url = start_server(size)
    try:
        idle = peak = server.memory_info().rss
        people = [User(url, number) for number in range(users)]
        for person in people:
            person.start()
        while any(person.is_alive() for person in people):
            peak = max(peak, server.memory_info().rss)
            time.sleep(0.2)
        own = sum(p.status_of(path) == 200 for p in people for path in p.files)
        foreign = [
            (person, path)
            for person in people
            for other in people
            for path in other.files - person.files
        ]
        read = sum(person.status_of(path) == 200 for person, path in foreign)
        taken = sum(
            person.run_with(other.uploads) == 200
            for person, other in zip(people, people[1:] + people[:1], strict=True)
            if person is not other
        )
        return {
            "users": users,
            "size": size,
            "finished": sum(person.state == "done" for person in people),
            "failures": [person.failure for person in people if person.failure],
            "longest_line_seen": max(person.most_ahead for person in people),
            "upload_s_median": round(median(p.times_s.get("upload", 0) for p in people), 2),
            "scene_s_median": round(median(p.times_s.get("scene", 0) for p in people), 1),
            "scene_s_max": round(max(p.times_s.get("scene", 0) for p in people), 1),
            "own_files": sum(len(person.files) for person in people),
            "own_files_read": own,
            "foreign_files_asked_for": len(foreign),
            "foreign_files_read": read,
            "runs_on_foreign_uploads": taken,
            "memory_mb_idle": round(idle / 2**20),
            "memory_mb_peak": round(peak / 2**20),
            "environment": describe_environment(),
        }
    finally:
        server.terminate()
        server.wait(60)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--size", type=int, default=64, help="long side at the network, pixels")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.users, arguments.size), indent=2))


if __name__ == "__main__":
    main()
