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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
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
import time
from pathlib import Path
from weav3r import example_photos, reconstruct
from weav3r.demo import app, service
from weav3r.demo.job import JobResult

examples = example_photos()
stored = None

def quick_job(files, folder, model, options, *, progress, **others):
    global stored
    names = " ".join(Path(file).name for file in files)
    if options.graph == "swin-3-noncyclic":
        for step in range(600):
            progress("depth", step, 600)
            time.sleep(0.1)
    if stored is None:
        stored = reconstruct(files, model, size=64, progress=False)
    (folder / "photos").mkdir()
    stored.save(folder / "scene.npz")
    return JobResult(folder / "scene.npz", 2, 2, [names])

class ShownSessions(app.Sessions):
    def __init__(self):
        super().__init__()
        print(self.root, flush=True)

service.run_job, app.Sessions = quick_job, ShownSessions
app.launch(examples=examples, device="cpu", port=int(sys.argv[1]))
"""


@dataclass(frozen=True)
class Page:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    root: Path
    browsers: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where its programming interface is."""
        return f"http://127.0.0.1:{self.port}/gradio_api"

    def open(self, url: str, session: str, data: Any = None) -> Any:
        """Ask as the browser of a session, which keeps its cookie."""
        if session not in self.browsers:
            cookies = urllib.request.HTTPCookieProcessor(CookieJar())
            self.browsers[session] = urllib.request.build_opener(cookies)
            self.browsers[session].open(f"http://127.0.0.1:{self.port}/").close()
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        return self.browsers[session].open(request)

    def get(self, path: str, session: str = "a") -> int:
        """Status of a request for a file of the server."""
        try:
            with self.open(f"{self.url}/file={path}", session) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def call(self, name: str, data: list[Any], session: str) -> tuple[str, list[Any]]:
        """Call a function of the page as a foreign client could: how it ended, and all its data."""
        url = f"{self.url}/call/{name}"
        with self.open(url, session, {"data": data, "session_hash": session}) as reply:
            event = json.load(reply)["event_id"]
        with self.open(f"{url}/{event}", session) as reply:
            lines = [line.split(": ", 1) for line in reply.read().decode().splitlines() if line]
        *_, last = (value for key, value in lines if key == "event")
        return last, [json.loads(value) for key, value in lines if key == "data"]

    def run(
        self, files: list[dict[str, Any]], example: str, graph: str = "auto", session: str = "a"
    ) -> tuple[str, list[Any]]:
        """Press the button."""
        inputs = [files, example, [], "weav3r-small", graph, 0, None]
        scene = ["squares", "photo", 1.2, 1.0, 50, True, False, 3.0, 0]
        return self.call("reconstruct", [*inputs, *scene, "depth"], session)

    def cancel(self, session: str) -> None:
        """Press the other button."""
        data = {"data": [], "session_hash": session}
        with self.open(f"{self.url}/run/cancel_run", session, data) as reply:
            assert reply.status == 200


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


def files_in(data: Any) -> list[str]:
    """Paths of all files that an answer names."""
    if isinstance(data, dict):
        own = [data["path"]] if data.get("meta", {}).get("_type") == "gradio.FileData" else []
        return own + [path for value in data.values() for path in files_in(value)]
    return [path for value in data for path in files_in(value)] if isinstance(data, list) else []


def test_an_example_gives_files_of_this_session(page: Page) -> None:
    event, data = page.run([], "toy")
    assert event == "complete"
    assert 'data-state="done"' in data[-1][0] and "toy_1.jpg toy_2.jpg" in data[-1][0]
    files = set(files_in(data))
    assert sorted(Path(file).suffix for file in files) == [".glb", ".jpg", ".jpg"]
    for file in files:
        assert Path(file).is_relative_to(page.root) and page.get(file) == 200
        assert page.get(file, "another") == 403


def test_a_run_can_be_cancelled_and_lets_the_next_one_begin(page: Page) -> None:
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(page.run, [], "toy", "swin-3-noncyclic", "b")
        time.sleep(1.0)
        short = pool.submit(page.run, [], "toy", "auto", "c")
        time.sleep(0.5)
        assert not short.done()
        page.cancel("d")  # of another session: nothing happens
        assert not long.done()
        page.cancel("b")
        event, data = long.result(30)
        assert event == "complete" and 'data-state="cancelled"' in data[-1][0]
        event, data = short.result(60)
        assert event == "complete" and 'data-state="done"' in data[-1][0]


def test_a_failed_job_is_a_message(page: Page) -> None:
    event, data = page.run([], "")
    assert event == "error"
    assert "There are no photos" in json.dumps(data)
    event, data = page.run([], "../../etc")
    assert event == "error" and "There is no example" in json.dumps(data)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "pyproject.toml"), str(Path(__file__)), "../../etc/passwd"]
)
def test_no_other_file_can_be_read(page: Page, path: str) -> None:
    assert page.get(path) in (403, 404)


def test_a_path_cannot_be_passed_off_as_an_upload(page: Page) -> None:
    photo = ROOT / "src" / "weav3r" / "examples" / "toy" / "toy_1.jpg"
    upload = {"path": str(photo), "meta": {"_type": "gradio.FileData"}}
    try:
        event, data = page.run([upload], "")
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 403
    else:
        assert event == "error" and "toy_1" not in json.dumps(data)
    assert photo.exists()
