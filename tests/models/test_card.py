"""Provenance, licence notice and model card."""

from __future__ import annotations

import json
import logging

import pytest

from weav3r.models import PRESETS, Provenance
from weav3r.models.card import find_provenance, model_card, warn_of_licence


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC BY-NC-SA 4.0", True),
        ("cc-by-nc-4.0", True),
        ("Non-Commercial research licence", True),
        ("noncommercial", True),
        ("Apache-2.0", False),
        ("CC BY-SA 4.0", False),
        ("NCSA", False),
        ("licence", False),
        ("", False),
    ],
)
def test_non_commercial_licences(licence: str, expected: bool) -> None:
    assert Provenance(licence=licence).non_commercial == expected


def test_metadata_round_trip() -> None:
    stated = Provenance("MIT", "Photos.", {"AUC@5": "0.5"}, "me/base", "A network.")
    metadata = stated.to_metadata()
    assert metadata["licence"] == "MIT"
    assert find_provenance(metadata) == stated
    assert Provenance().to_metadata() == {}


@pytest.mark.parametrize(
    ("metadata", "card", "published", "licence"),
    [
        ({"licence": "MIT"}, "---\nlicense: apache-2.0\n---\n", True, "MIT"),
        ({"license": "MIT"}, None, False, "MIT"),
        ({}, "---\nlicense: cc-by-nc-sa-4.0\ntags:\n- x\n---\n# X", False, "cc-by-nc-sa-4.0"),
        ({}, '---\nlicense: other\nlicense_name: "My own"\n---\n', False, "My own"),
        ({}, "---\ntags:\n  license: mit\n---\n", True, "CC BY-NC-SA 4.0"),
        ({}, "---" + "\n" * 200_000 + "x", True, "CC BY-NC-SA 4.0"),  # at once, not in minutes
        ({}, "license: mit", True, "CC BY-NC-SA 4.0"),
        ({}, None, False, ""),
        ({"provenance": "[1]"}, None, False, ""),
        ({"provenance": "{" * 9000}, None, False, ""),
        ({"provenance": '{"licence": "X", "new": 1, "metrics": [1]}'}, None, False, "X"),
    ],
)
def test_where_a_licence_is_stated(
    metadata: dict[str, str], card: str | None, published: bool, licence: str
) -> None:
    assert find_provenance(metadata, card, published).licence == licence


def test_the_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_licence("a.safetensors", Provenance(licence="MIT"), PRESETS["weav3r-small"])
        assert caplog.records == []
        warn_of_licence("b.pth", Provenance(licence="CC BY-NC 4.0"), PRESETS["dust3r-512-dpt"])
        warn_of_licence("c.pth", Provenance(licence="CC BY-NC 4.0"), PRESETS["mast3r-512"])
    dust3r, mast3r = (record.getMessage() for record in caplog.records)
    assert dust3r == "b.pth: licence CC BY-NC 4.0, non-commercial use only."
    assert mast3r.endswith("restrictions of their own: see its model card.")


@pytest.mark.parametrize(
    ("licence", "lines"),
    [
        ("CC BY-NC-SA 4.0", ["license: cc-by-nc-sa-4.0"]),
        ("Apache-2.0", ["license: apache-2.0"]),
        ("My: own", ["license: other", 'license_name: "My: own"']),
        ("", []),
    ],
)
def test_the_card(licence: str, lines: list[str]) -> None:
    stated = Provenance(licence, "Photos of mine.", {"AUC@5": "0.5"}, "me/base", "A network.")
    text = model_card("me/x", PRESETS["mast3r-512"], stated, 688_638_856, "abc", "me/x")
    head, body = text.split("---\n", 2)[1:]
    assert head.splitlines()[: len(lines)] == lines
    assert "library_name: weav3r" in head and 'base_model: "me/base"' in head
    for part in ("# me/x", "A network.", "Photos of mine.", "| AUC@5 | 0.5 |", "688.6 M", "`abc`"):
        assert part in body
    assert 'weav3r.load_model("me/x")' in body and "512x512" in body
    settings = body.split("```json\n")[1].split("```")[0]
    assert json.loads(settings) == PRESETS["mast3r-512"].to_dict()
    assert find_provenance({}, text).licence == (licence and lines[-1].split(": ", 1)[1].strip('"'))


def test_a_card_says_what_is_not_known() -> None:
    text = model_card("x", PRESETS["weav3r-small"], Provenance(), 1, "abc", "x")
    assert text.count("Not stated.") == 2 and "None stated." in text
    assert not text.split("---")[1].strip().startswith("license")
