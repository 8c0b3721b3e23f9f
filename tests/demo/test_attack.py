"""A running server, and people who want what is not theirs."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import weav3r

from .served import ROOT, Answer, Served, Visitor, served

PHOTO = ROOT / "src" / "weav3r" / "examples" / "toy" / "toy_1.jpg"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(megabytes=2, video_megabytes=2, total_megabytes=3, photos=4) as running:
        yield running


@pytest.fixture
def eve(server: Served) -> Visitor:
    """Someone who knows every path on the server, but has no business there."""
    return Visitor(server.url)


@pytest.fixture(scope="module")
def ann(server: Served) -> tuple[Visitor, list[str], list[str]]:
    """Someone with a scene; her uploads, and the files that she was given."""
    person = Visitor(server.url)
    assert person.ask("/").status == 200
    photos = sorted(weav3r.example_photos()["toy"].iterdir())
    uploads = [person.upload(photo.name, photo.read_bytes()).json[0] for photo in photos]
    messages = json.dumps(person.run(uploads))
    assert 'data-state=\\"done' in messages.replace("\\\\", "\\")
    given = re.findall(r'"path": "([^"]+)"', messages)
    assert any(path.endswith(".glb") for path in given)
    return person, uploads, sorted(set(given))


def png(name: str = "", **options: object) -> bytes:
    """A small photo with the name in its pixels."""
    file = io.BytesIO()
    seed = zlib.crc32(name.encode())
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def shows_nothing(answer: Answer, server: Served) -> bool:
    """No path of the server, no traceback, nothing of a file that every system has."""
    body = answer.body
    secret = [b"Traceback", b"site-packages", b"root:x:", str(server.root).encode()]
    secret += [b"LD_LIBRARY_PATH=", b"[project]", os.environ.get("HOME", "/root").encode() + b"/"]
    return not any(text in body for text in secret)


# -- files -----------------------------------------------------------------------------------------


def test_the_owner_has_uploads_and_results(ann: tuple[Visitor, list[str], list[str]]) -> None:
    person, uploads, given = ann
    for path in [*uploads, *given]:
        answer = person.file(path)
        assert answer.status == 200 and answer.body, path
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_nobody_else_has_them(
    ann: tuple[Visitor, list[str], list[str]], eve: Visitor, server: Served
) -> None:
    _, uploads, given = ann
    everything = {str(file) for file in server.root.rglob("*")}
    assert {*uploads, *given} <= everything
    eve.ask("/")
    for path in everything:
        answer = eve.file(path)
        public = answer.status == 200
        assert not (public and (path in uploads or path in given)), path
        assert public or (answer.status == 403 and shows_nothing(answer, server))
    for run in {Path(path).relative_to(server.root).parts[0] for path in given}:
        assert eve.file(str(server.root / run / "scene.npz")).status == 403


def test_uploads_of_others_cannot_be_run_with(
    ann: tuple[Visitor, list[str], list[str]], eve: Visitor, server: Served
) -> None:
    _, uploads, given = ann
    folder, name = os.path.split(uploads[0])
    ways = [uploads[0], f"{folder}/../{os.path.basename(folder)}/{name}", f"{folder}//{name}"]
    ways += [f"/proc/self/root{uploads[0]}", given[0], str(PHOTO), "/etc/passwd", "../../x"]
    ways += [f"{server.url}/gradio_api/file={uploads[0]}", "file:///etc/passwd", "a\0.jpg"]
    for way in ways:
        answer = eve.start([way])
        assert answer.status in (400, 403), way
        assert shows_nothing(answer, server)
    assert eve.start([], example=uploads[0]).status == 403


def test_pages_of_others_cannot_be_listened_to_or_ended(
    ann: tuple[Visitor, list[str], list[str]], eve: Visitor
) -> None:
    session = ann[0].session
    assert eve.ask(f"/gradio_api/queue/data?session_hash={session}").status == 403
    assert eve.ask(f"/gradio_api/heartbeat/{session}").status == 403
    assert eve.start([], session_hash=session).status == 403
    body = {"session_hash": session, "fn_index": 0, "event_id": "x"}
    assert eve.post("/gradio_api/cancel", body).status == 403


OUTSIDE = [
    *("/etc/passwd", "/proc/self/environ", "/proc/self/cmdline", "/dev/zero", "/"),
    *(str(PHOTO), str(ROOT / "pyproject.toml"), sys.executable),
    *("../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd"),
    *("..%252f..%252fetc%252fpasswd", "....//....//etc/passwd", "..\\..\\etc\\passwd"),
    *("C:/Windows/win.ini", "\\\\host\\share", "//etc/passwd", "/etc/passwd%00.png"),
    *("file:///etc/passwd", "http://127.0.0.1/", "https://example.org/", "data:text/html,x"),
]
PREFIXES = [
    *("/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/"),
    *("/static/", "/assets/", "/svelte/", "/pwa_icon/", "/"),
    *("/gradio_api/proxy=", "/gradio_api/stream/", "/gradio_api/custom_component/"),
    *("/gradio_api/call/reconstruct/", "/gradio_api/heartbeat/", "/theme.css/"),
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_route_leads_out(prefix: str, server: Served) -> None:
    for path in OUTSIDE:
        for way in {path, quote(path, safe="%"), quote(path, safe="/%")}:
            # As it is: urllib would tidy the path up.
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            try:
                connection.putrequest("GET", f"{prefix}{way}".replace("\\", "%5c"))
                connection.endheaders()
                reply = connection.getresponse()
                head = reply.read(200_000) if reply.status != 200 else b""
            finally:
                connection.close()
            assert reply.status in (400, 403, 404, 405), f"{prefix}{way}: {reply.status}"
            assert shows_nothing(Answer(reply.status, head, {}), server)


def test_uploads_under_wild_names_stay_inside(eve: Visitor, server: Served) -> None:
    eve.ask("/")
    before = {file for file in server.root.parent.iterdir()}
    for name in [
        *("../../escaped.png", "/etc/escaped.png", "..\\escaped.png", "a/../../escaped.png"),
        *("😀.png", "x" * 500 + ".png", "\u202egnp.exe", "nul.png", "<img src=x>.png"),
    ]:
        answer = eve.upload(name, png(name))
        assert answer.status == 200 or shows_nothing(answer, server)
        if answer.status == 200:
            (path,) = answer.json
            assert Path(path).resolve().is_relative_to(server.root)
            assert eve.file(quote(path)).status == 200
    assert {file for file in server.root.parent.iterdir() if "escaped" in file.name} <= before


def test_upload_ids_lead_nowhere(eve: Visitor, server: Served) -> None:
    for name in ("../../etc", "..%2f..%2fetc", "a" * 5000):
        answer = eve.ask(f"/gradio_api/upload_progress?upload_id={name}")
        assert answer.status in (200, 400, 403, 404) and shows_nothing(answer, server)


# -- requests --------------------------------------------------------------------------------------

CLOSED = [
    *(("POST", "/gradio_api/component_server"), ("POST", "/gradio_api/process_recording")),
    *(("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/vibe-code"), ("GET", "/monitoring")),
    *(("GET", "/gradio_api/runs"), ("GET", "/gradio_api/profiling/traces"), ("GET", "/docs")),
    *(("GET", "/gradio_api/openapi.json"), ("GET", "/openapi.json"), ("GET", "/redoc")),
    *(("POST", "/gradio_api/stream/x"), ("GET", "/gradio_api/deep_link"), ("PUT", "/")),
    *(("DELETE", "/gradio_api/upload"), ("GET", "/gradio_api/dev/reload"), ("POST", "/")),
    *(("GET", "/gradio_api/mcp/sse"), ("GET", "/gradio_api/custom_component/a/b/c/d")),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_the_page_does_not_need_is_closed(
    method: str, path: str, eve: Visitor, server: Served
) -> None:
    answer = eve.ask(path, b"{}" if method == "POST" else None, method)
    assert answer.status == 404 and answer.body == b"not found"


def test_a_name_that_leads_here_from_elsewhere_is_not_answered_to(eve: Visitor) -> None:
    assert eve.ask("/", host="evil.example").status == 403
    assert eve.ask("/", host="127.0.0.1.evil.example").status == 403
    assert eve.ask("/", host="localhost").status == 200


def test_bodies_that_make_no_sense_are_refused_without_a_traceback(
    eve: Visitor, server: Served
) -> None:
    join = "/gradio_api/queue/join"
    bodies = [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"data": null}']
    for body in [*bodies, b'{"data": [], "fn_index": 99999, "session_hash": "a"}']:
        answer = eve.ask(join, body, content_type="application/json")
        assert 400 <= answer.status < 600 and shows_nothing(answer, server), body[:40]
    assert eve.ask(join, b" " * 2_000_000).status == 413


# -- bombs -----------------------------------------------------------------------------------------


def test_too_much_is_refused_before_it_is_sent(eve: Visitor, server: Served) -> None:
    eve.ask("/")
    assert eve.upload("large.png", bytes(2_200_000)).status == 413  # Gradio's limit, each file
    size = str(50 * 2**20)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", size)
    connection.endheaders()
    assert connection.getresponse().status == 413  # not a byte of it was read
    connection.close()
    answer = eve.ask("/gradio_api/upload", b"x", transfer_encoding="chunked", content_length="")
    assert answer.status in (400, 411)


def bomb_of(width: int, height: int) -> bytes:
    """A PNG that claims to be that large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_bad_files_are_named_and_harmless(eve: Visitor, server: Served) -> None:
    eve.ask("/")
    files = {
        "bomb.png": bomb_of(20_000, 10_000),
        "page.jpg": b"<html><script>alert(1)</script>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        "archive.jpg": b"PK\x03\x04" + bytes(100),
    }
    uploads = [eve.upload(name, data).json[0] for name, data in files.items()]
    start = time.monotonic()
    said = json.dumps(eve.run(uploads))
    assert time.monotonic() - start < 60
    for text in ("bomb.png has more than 50 megapixels", "page.jpg is a web page"):
        assert text in said
    assert "drawing.png is an SVG drawing" in said and "archive.jpg is an archive" in said
    assert "<script>" not in said and "Traceback" not in said
    for path in uploads:  # to the one who uploaded it, as a file, not as a page
        headers = eve.file(path).headers
        kind = headers["content-type"]
        assert kind.startswith("image/") or headers["content-disposition"].startswith("attachment")


def test_html_in_exif_and_names_is_not_shown_as_html(eve: Visitor) -> None:
    eve.ask("/")
    evil = "<img src=x onerror=alert(1)>"
    exif = Image.Exif()
    exif[0x010E] = exif[0x010F] = exif[0x0110] = exif[0x9286] = evil
    uploads = []
    for number, photo in enumerate(sorted(weav3r.example_photos()["toy"].iterdir())):
        file = io.BytesIO()
        with Image.open(photo) as image:
            image.save(file, "JPEG", exif=exif)
        uploads.append(eve.upload(f"{number}{evil}.jpg", file.getvalue()).json[0])
    said = json.dumps(eve.run(uploads))
    assert 'data-state=\\"done' in said.replace("\\\\", "\\")
    assert "<img src=x" not in said and "onerror=alert(1)>" not in said.replace("&gt;", "")


def test_many_users_see_their_own_files_only() -> None:
    script = ROOT / "benchmarks" / "bench_demo.py"
    command = [sys.executable, "-P", str(script), "--users", "4", "--size", "64"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["finished"] == 4 and not found["failures"]
    assert found["own_files_read"] == found["own_files"] >= 4 * 6
    assert found["foreign_files_asked_for"] >= 80
    assert found["foreign_files_read"] == found["runs_on_foreign_uploads"] == 0
    assert found["memory_mb_peak"] < found["memory_mb_idle"] + 800
