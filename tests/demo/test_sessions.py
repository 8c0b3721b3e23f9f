"""Temporary folders of the page's users."""

import subprocess
import sys
from pathlib import Path

import pytest

from weav3r.demo.sessions import Sessions, remove_stale


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path)


def test_a_new_run_replaces_the_results_of_the_last(sessions: Sessions) -> None:
    first = sessions.begin_run("ann")
    (first / "scene.glb").write_text("old")
    assert sessions.end_run("ann", first)
    second = sessions.begin_run("ann")
    assert second != first and second.is_dir() and not first.exists()


def test_sessions_do_not_share_folders_and_names_cannot_be_guessed(sessions: Sessions) -> None:
    ann, bob = sessions.begin_run("ann"), sessions.begin_run("bob")
    assert ann != bob and ann.parent == bob.parent == sessions.root
    assert len(ann.name) == 32 and "ann" not in ann.name
    sessions.close("ann")
    assert not ann.exists() and bob.exists()


def test_closing_deletes_uploads_but_not_those_of_others(
    sessions: Sessions, tmp_path: Path
) -> None:
    own, common = tmp_path / "own.jpg", tmp_path / "common.jpg"
    own.touch()
    common.touch()
    sessions.begin_run("ann", [own, common])
    sessions.begin_run("bob", [str(common)])
    sessions.close("ann")
    assert not own.exists() and common.exists()
    sessions.close("bob")
    assert not common.exists()
    sessions.close("bob")  # closing twice, or a session that never ran, is nothing special


def test_results_that_come_after_the_page_was_closed_are_deleted(sessions: Sessions) -> None:
    folder = sessions.begin_run("ann")
    sessions.close("ann")
    (folder / "late").mkdir(parents=True)
    assert not sessions.end_run("ann", folder)
    assert not folder.exists()


def test_forgotten_sessions_end(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, max_age_s=-1.0)
    old = sessions.begin_run("ann")
    sessions.begin_run("bob")
    assert not old.exists()


def test_closing_all_deletes_the_root(sessions: Sessions) -> None:
    sessions.begin_run("ann")
    sessions.close_all()
    assert not sessions.root.exists()


def test_sessions_and_their_disk_are_bounded(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, max_sessions=2, max_bytes=1000)
    ann = sessions.begin_run("ann")
    sessions.begin_run("bob")
    sessions.begin_run("bob")
    with pytest.raises(ValueError, match="too many people are using this page"):
        sessions.begin_run("eve")
    (ann / "scene.npz").write_bytes(bytes(10_000))
    with pytest.raises(ValueError, match="there is no room for more"):
        sessions.begin_run("bob")
    sessions.close("ann")
    sessions.begin_run("eve")


CRASH = """
import os, sys
from pathlib import Path
from weav3r.demo.sessions import Sessions
sessions = Sessions(Path(sys.argv[1]))
(sessions.begin_run("ann") / "photo.jpg").write_text("private")
os._exit(9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked that way there")
def test_what_a_crashed_server_left_is_deleted_by_the_next(tmp_path: Path) -> None:
    alive = Sessions(tmp_path)
    kept = alive.begin_run("bob")
    subprocess.run([sys.executable, "-P", "-c", CRASH, str(tmp_path)], check=False)
    (stale,) = set(tmp_path.iterdir()) - {alive.root}
    assert list(stale.glob("*/photo.jpg"))
    Sessions(tmp_path).close_all()
    assert not stale.exists() and kept.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked that way there")
def test_folders_that_only_look_stale_stay(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".running").touch()
    foreign, link = tmp_path / "weav3r-demo-foreign", tmp_path / "weav3r-demo-link"
    foreign.mkdir()  # no lock: not ours, or just being made
    link.symlink_to(home)
    trap = tmp_path / "weav3r-demo-trap"
    trap.mkdir()
    (trap / ".running").symlink_to(home / ".running")
    remove_stale(tmp_path)
    assert foreign.exists() and home.exists() and link.exists() and trap.exists()
