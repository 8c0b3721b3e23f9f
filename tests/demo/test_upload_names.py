"""Names of uploaded files."""

import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weav3r.demo.upload_names import MAX_SHOWN, safe_name, shown_name

ANY_NAME = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="./\\ :CONnul\x00\u202e😀é-_1", max_size=30),
)


@given(ANY_NAME, st.sampled_from([".jpg", ".png", ""]))
def test_a_safe_name_is_one_plain_part_of_a_path(name: str, suffix: str) -> None:
    safe = safe_name(name, suffix, set())
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", safe)
    assert safe.endswith(suffix) and len(safe) <= 60 and not safe.endswith(".")
    assert PurePosixPath(safe).parts == PureWindowsPath(safe).parts == (safe,)
    assert safe.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(st.lists(ANY_NAME, max_size=20))
def test_safe_names_differ_by_more_than_case(names: list[str]) -> None:
    taken: set[str] = set()
    for name in names:
        safe = safe_name(name, ".jpg", taken)
        assert safe.lower() not in taken
        taken.add(safe.lower())


@given(ANY_NAME)
def test_a_shown_name_is_one_short_line_without_control_characters(name: str) -> None:
    shown = shown_name(name)
    assert 0 < len(shown) <= MAX_SHOWN and len(shown.splitlines()) == 1
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
    assert "/" not in shown and "\\" not in shown


@given(st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,30}[A-Za-z0-9])?\.(jpg|png)", fullmatch=True))
def test_plain_names_stay(name: str) -> None:
    stem, _, suffix = name.rpartition(".")
    kept = safe_name(name, f".{suffix}", set())
    assert kept in (name, f"photo_{name}")
    assert kept == name or stem.lower()[:3] in {"con", "prn", "aux", "nul", "com", "lpt"}
    assert shown_name(name) == name


@pytest.mark.parametrize(
    ("name", "safe", "shown"),
    [
        ("../../etc/passwd", "passwd.jpg", "passwd"),
        ("/etc/cron.d/x.jpg", "x.jpg", "x.jpg"),
        ("C:\\Windows\\win.ini", "win.jpg", "win.ini"),
        ("\0.jpg", "photo.jpg", ".jpg"),
        ("Café à Paris.JPG", "Cafe_a_Paris.jpg", "Café à Paris.JPG"),
        ("😀.jpg", "photo.jpg", "😀.jpg"),
        ("写真 12.jpg", "12.jpg", "写真 12.jpg"),
        ("\u202egpj.exe", "gpj.jpg", "gpj.exe"),
        ("nul.jpg", "photo_nul.jpg", "nul.jpg"),
        ("com1.tar.jpg", "photo_com1.tar.jpg", "com1.tar.jpg"),
        (".htaccess", "htaccess.jpg", ".htaccess"),
        ("-rf.jpg", "rf.jpg", "-rf.jpg"),
        ("a" * 300 + ".jpg", "a" * 40 + ".jpg", "a" * 29 + "…" + "a" * 25 + ".jpg"),
        ("<img src=x onerror=alert(1)>.jpg", "img_src_x_onerror_alert_1.jpg", None),
        ("two\nlines\r.jpg", "two_lines.jpg", "two lines .jpg"),
        ("", "photo.jpg", "a file without a name"),
    ],
)
def test_names_that_were_thought_of(name: str, safe: str, shown: str | None) -> None:
    assert safe_name(name, ".jpg", set()) == safe
    assert shown is None or shown_name(name) == shown


def test_names_are_numbered_across_cases() -> None:
    assert safe_name("PHOTO.png", ".png", {"photo.png", "photo-2.png"}) == "PHOTO-3.png"
