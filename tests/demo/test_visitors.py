"""Whose files are whose."""

import json
from pathlib import Path

import pytest

from weav3r.demo.visitors import GuardLimits, RefusedRequestError, Visitors

ANN, BOB = "a" * 32, "b" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "thumbnail.webp").touch()
    return tmp_path.resolve()


@pytest.fixture
def visitors(root: Path) -> Visitors:
    made = Visitors(root, GuardLimits(request_bytes=1000, visitor_bytes=1500, total_bytes=4000))
    made.publish()
    return made


def status(error: pytest.ExceptionInfo[RefusedRequestError]) -> int:
    return error.value.status


def test_a_visitor_has_what_a_reply_to_it_named(visitors: Visitors, root: Path) -> None:
    scene, odd = str(root / "run" / "scene.glb"), str(root / "x" / 'é "q" & \\ 写.png')
    visitors.tell(ANN, f"data: {json.dumps({'value': {'path': scene}, 'also': odd})}\n\n")
    assert visitors.may_have(ANN, scene) and not visitors.may_have(BOB, scene)
    visitors.tell(BOB, json.dumps(f'<img src="{scene}2">'))
    assert visitors.may_have(BOB, f"{scene}2")
    visitors.tell_uploads(BOB, json.dumps([odd]))
    assert visitors.may_have(BOB, odd)
    visitors.tell_uploads(BOB, "no list")
    visitors.tell_uploads(BOB, '{"error": "x"}')


def test_the_pictures_of_the_page_are_for_everyone(visitors: Visitors, root: Path) -> None:
    assert visitors.may_have(BOB, str(root / "page" / "thumbnail.webp"))
    assert not visitors.may_have(BOB, str(root / "page"))


def test_names_of_visitors_cannot_be_chosen_freely(visitors: Visitors) -> None:
    assert visitors.name(ANN) == ANN
    for cookie in (None, "", "ann", "A" * 32, "a" * 33, "../" + "a" * 29):
        assert visitors.name(cookie) != cookie and len(visitors.name(cookie)) == 32


def test_requests_may_name_own_files_only(visitors: Visitors, root: Path) -> None:
    own = str(root / "x" / "photo.jpg")
    visitors.tell_uploads(ANN, json.dumps([own]))
    visitors.check(ANN, {"data": [[{"path": own}], "some text / with a slash", 3, None]})
    foreign = [
        {"path": own},
        {"path": "/etc/passwd"},
        {"path": "https://example.org/x.jpg"},
        [own],
        {own: 1},
        f"{root}/x/../x/photo.jpg",
        str(root),
    ]
    for value in foreign:
        with pytest.raises(RefusedRequestError, match="belongs to someone else") as error:
            visitors.check(BOB, {"data": [value]})
        assert status(error) == 403
    with pytest.raises(RefusedRequestError, match="there is a NUL"):
        visitors.check(ANN, ["a\0b"])


def test_a_link_to_the_folder_is_no_way_round(visitors: Visitors, root: Path) -> None:
    (root.parent / f"{root.name}-link").symlink_to(root)
    with pytest.raises(RefusedRequestError):
        visitors.check(BOB, [f"{root}-link/x/photo.jpg"])


def test_pages_belong_to_who_opened_them(visitors: Visitors) -> None:
    visitors.claim(ANN, "page1")
    visitors.claim(ANN, "page1")
    with pytest.raises(RefusedRequestError, match="this page belongs to someone else"):
        visitors.claim(BOB, "page1")
    with pytest.raises(RefusedRequestError, match="too many pages are open") as error:
        for number in range(100):
            visitors.claim(BOB, f"bob{number}")
    assert status(error) == 429
    visitors.leave("page1")
    visitors.claim(ANN, "page2")


def test_uploads_are_bounded(visitors: Visitors, root: Path) -> None:
    with pytest.raises(RefusedRequestError, match="that is too much at once") as error:
        visitors.begin_upload(ANN, 1001)
    assert status(error) == 413
    visitors.begin_upload(ANN, 1000)
    with pytest.raises(RefusedRequestError, match="you have uploaded enough"):
        visitors.begin_upload(ANN, 600)
    visitors.begin_upload(BOB, 600)
    visitors.end_upload(ANN, 1000)
    visitors.begin_upload(ANN, 600)
    (root / "scene.npz").write_bytes(bytes(3000))
    with pytest.raises(RefusedRequestError, match="there is no room for more") as error:
        visitors.begin_upload(BOB, 100)
    assert status(error) == 507
    visitors.leave("nobody")
    visitors.end_upload(ANN, 10**6)
    with pytest.raises(RefusedRequestError):
        visitors.begin_upload(ANN, 1001)


def test_leaving_deletes_uploads_that_nobody_else_has(visitors: Visitors, root: Path) -> None:
    own, common, outside = root / "own.jpg", root / "common.jpg", root.parent / "outside.jpg"
    for file in (own, common, outside):
        file.touch()
    visitors.tell_uploads(ANN, json.dumps([str(own), str(common), str(outside)]))
    visitors.tell_uploads(BOB, json.dumps([str(common)]))
    visitors.claim(ANN, "one")
    visitors.claim(ANN, "two")
    visitors.leave("one")
    assert own.exists()
    visitors.leave("two")
    assert not own.exists() and common.exists() and outside.exists()
    assert not visitors.may_have(ANN, str(own))
