"""The page in the browser, as a client on the network sees it."""

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_without_gradio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "weav3r.demo.app", raising=False)
    with pytest.raises(ImportError, match=r"weav3r\.demo needs gradio: pip install"):
        import weav3r.demo.app  # noqa: F401


# A server of its own process: Gradio leaves sockets and event loops behind, which are warnings, and
# so errors, in the process of the tests. The job is replaced by one that takes no time.
SERVER = """
import sys
from pathlib import Path
from weav3r import example_photos
from weav3r.demo import app
from weav3r.demo.job import JobResult

def quick_job(files, folder, model, *, progress, **options):
    progress("encode", 1, 2)
    if not files:
        raise ValueError("there are no photos")
    scene = folder / "scene.glb"
    scene.write_bytes(b"glTF")
    return JobResult(scene, [], " ".join(Path(file).name for file in files), [scene])

class ShownSessions(app.Sessions):
    def __init__(self):
        super().__init__()
        print(self.root, flush=True)

app.run_job, app.Sessions = quick_job, ShownSessions
app.launch(examples=example_photos(), device="cpu", port=int(sys.argv[1]))
"""


@dataclass(frozen=True)
class Page:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    root: Path

    @property
    def url(self) -> str:
        """Where its programming interface is."""
        return f"http://127.0.0.1:{self.port}/gradio_api"

    def get(self, path: str) -> int:
        """Status of a request for a file of the server."""
        try:
            with urllib.request.urlopen(f"{self.url}/file={path}") as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def run(self, files: list[dict[str, Any]], source: str) -> tuple[str, Any]:
        """Press the button as a foreign client could; the last event and its data."""
        body = json.dumps({"data": [files, source, 256, "points"]}).encode()
        url = f"{self.url}/call/reconstruct"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            event = json.load(reply)["event_id"]
        with urllib.request.urlopen(f"{url}/{event}") as reply:
            lines = [line.split(": ", 1) for line in reply.read().decode().splitlines() if line]
        (name, data) = ([value for k, value in lines if k == key][-1] for key in ("event", "data"))
        return name, json.loads(data)


def start_page() -> Page:
    """Start a server and wait until it answers."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the extra 'demo' is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    page = Page(process, port, Path(process.stdout.readline().strip()))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/"):
                return page
        except OSError:
            time.sleep(0.2)
    stop_page(page)
    raise AssertionError("the server did not start")


def stop_page(page: Page) -> None:
    """Ask the server to end, and wait for it."""
    page.process.terminate()
    page.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    page = start_page()
    yield page
    stop_page(page)
    if sys.platform != "win32":  # where a process cannot be asked, only stopped
        assert not page.root.exists(), "the server left its temporary files behind"


def test_it_listens_on_this_computer_only(page: Page) -> None:
    with socket.socket() as other:
        other.settimeout(5)
        # 127.0.0.2 is this computer, too: a server on all addresses would answer there.
        assert other.connect_ex(("127.0.0.2", page.port)) != 0


def test_an_example_gives_files_of_this_session(page: Page) -> None:
    event, data = page.run([], "toy")
    assert event == "complete"
    model, _, report, downloads = data
    assert report == "toy_1.jpg toy_2.jpg"
    assert Path(model["path"]).is_relative_to(page.root)
    assert page.get(model["path"]) == page.get(downloads[0]["path"]) == 200


def test_a_failed_job_is_a_message(page: Page) -> None:
    event, data = page.run([], "my photos")
    assert event == "error"
    assert "there are no photos" in json.dumps(data)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "pyproject.toml"), str(Path(__file__)), "../../etc/passwd"]
)
def test_no_other_file_can_be_read(page: Page, path: str) -> None:
    assert page.get(path) == 403


def test_a_path_cannot_be_passed_off_as_an_upload(page: Page) -> None:
    photo = ROOT / "src" / "weav3r" / "examples" / "toy" / "toy_1.jpg"
    upload = {"path": str(photo), "meta": {"_type": "gradio.FileData"}}
    event, data = page.run([upload], "my photos")
    assert event == "error"
    assert "toy_1" not in json.dumps(data)
    assert photo.exists()
