"""Checkpoints on a Hub: a local one that speaks its protocol."""

from __future__ import annotations

import argparse
import errno
import logging
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from weav3r.models import Provenance, TwoViewModel, checkpoint_info, load_model
from weav3r.models.hub import download, push_to_hub
from weav3r.models.hub_cache import (
    PUBLISHED_IDS,
    cache_folder,
    cached_file,
    cached_ids,
    choose_weights,
    is_hub_id,
    split_hub_id,
)

if TYPE_CHECKING:
    from ..conftest import LocalHub

REPO = "me/tiny"


def same_weights(model: TwoViewModel, other: TwoViewModel) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def folder(tiny: TwoViewModel, tmp_path: Path) -> Path:
    """Give a checkpoint folder in our own layout."""
    stated = Provenance(licence="MIT", training_data="Nothing.")
    return tiny.save_pretrained(tmp_path / "saved", provenance=stated).file.parent


def test_our_own_layout(
    hub: LocalHub, tiny: TwoViewModel, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.publish(REPO, folder)
    model = load_model(REPO, device="cpu")
    assert same_weights(model, tiny) and model.config == tiny.config
    assert model.provenance == Provenance(licence="MIT", training_data="Nothing.")
    file = cached_file(REPO)
    assert file is not None and hub.home / "hub" in file.parents
    before = len(hub.requests)
    load_model(REPO, device="cpu")
    assert not any("GET" in r and "model.safetensors" in r for r in hub.requests[before:])
    assert cached_ids() == [REPO]
    assert capfd.readouterr() == ("", "")  # progress bars are for the command


@pytest.mark.parametrize("any_tiny", ["dust3r-512-linear"], indirect=True)
def test_the_published_layout_and_its_licence(
    hub: LocalHub, any_tiny: TwoViewModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    any_tiny.save_pretrained(tmp_path / "published", layout="published")
    file = tmp_path / "published" / "model.safetensors"
    save_file(load_file(file), file)  # without our header
    (tmp_path / "published" / "README.md").unlink()
    hub.publish("naver/DUSt3R_tiny", tmp_path / "published")
    model = load_model("naver/DUSt3R_tiny", device="cpu")
    assert same_weights(model, any_tiny)
    assert model.provenance is not None and model.provenance.licence == "CC BY-NC-SA 4.0"
    (notice,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert notice.name.startswith("weav3r.models")
    assert "naver/DUSt3R_tiny: licence CC BY-NC-SA 4.0, non-commercial" in notice.getMessage()


@pytest.mark.parametrize("any_tiny", ["dust3r-512-dpt", "mast3r-512"], indirect=True)
def test_dropped_aliases_and_the_other_spelling(
    hub: LocalHub, any_tiny: TwoViewModel, tmp_path: Path
) -> None:
    source = tmp_path / "saved"
    any_tiny.save_pretrained(source)
    hub.publish("me/kept", source)  # has layer1_rn only, as safetensors keeps it
    state = {
        key.replace("scratch.layer1_rn", "scratch.layer_rn.0"): value
        for key, value in load_file(source / "model.safetensors").items()
    }
    assert any("layer_rn.0" in key for key in state)
    save_file(state, source / "model.safetensors")
    hub.publish("me/other", source)
    for repo in ("me/kept", "me/other"):
        assert same_weights(load_model(repo, device="cpu"), any_tiny)


def test_revisions(hub: LocalHub, tiny: TwoViewModel, folder: Path) -> None:
    hub.publish(REPO, folder)
    with torch.no_grad():
        tiny.enc_norm.weight.add_(1)
    tiny.save_pretrained(folder)
    hub.publish(REPO, folder, "v2")
    old, new = load_model(REPO, "cpu"), load_model(REPO, "cpu", revision="v2")
    assert same_weights(new, tiny) and not same_weights(old, tiny)
    assert same_weights(load_model(f"{REPO}@v2", "cpu", offline=True), tiny)
    with pytest.raises(FileNotFoundError, match=r"me/tiny on the Hub has no revision 'v3'"):
        load_model(REPO, "cpu", revision="v3")
    with pytest.raises(ValueError, match="two revisions"):
        load_model(f"{REPO}@v2", "cpu", revision="main")
    with pytest.raises(ValueError, match="revision='v2' needs a Hub id"):
        load_model(folder, "cpu", revision="v2")


def test_a_mirror_without_a_listing(hub: LocalHub, tiny: TwoViewModel, folder: Path) -> None:
    hub.has_api = False
    hub.publish(REPO, folder)
    assert same_weights(load_model(REPO, device="cpu"), tiny)
    hub.revisions[REPO]["main"].pop("model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"lacks config.json or model.safetensors"):
        download(REPO, cache_dir=hub.home / "other")


def test_missing_repositories(hub: LocalHub, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such repository.*private"):
        load_model("me/nothing", device="cpu")
    wrong = "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt"
    with pytest.raises(FileNotFoundError, match=f"did you mean {PUBLISHED_IDS['mast3r-512']}"):
        load_model(wrong, device="cpu")
    hub.hidden.add(REPO)
    with pytest.raises(FileNotFoundError, match="HF_TOKEN"):
        load_model(REPO, device="cpu")


def test_gated_repositories(
    hub: LocalHub, tiny: TwoViewModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, folder)
    hub.gated.add(REPO)
    with pytest.raises(PermissionError, match=r"me/tiny is gated: accept its terms.*HF_TOKEN"):
        load_model(REPO, device="cpu")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert same_weights(load_model(REPO, device="cpu"), tiny)
    assert "Bearer hf_secret" in hub.tokens


def test_repositories_without_weights(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.h5")
    hub.publish(REPO, folder)
    with pytest.raises(FileNotFoundError, match=r"holds README.md, config.json, weights.h5"):
        load_model(REPO, device="cpu")
    (folder / "weights.h5").rename(folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    hub.publish("me/bert", folder)
    with pytest.raises(ValueError, match="configuration of me/bert: unknown fields.*model_type"):
        load_model("me/bert", device="cpu")
    assert not any("GET" in r and r.endswith("model.safetensors") for r in hub.requests)


@pytest.mark.parametrize("any_tiny", ["dust3r-512-linear"], indirect=True)
def test_a_repository_with_one_pth_file(
    hub: LocalHub, any_tiny: TwoViewModel, tmp_path: Path
) -> None:
    file = tmp_path / "repo" / "model.pth"
    file.parent.mkdir()
    arguments = {"enc_embed_dim": 32, "enc_depth": 2, "enc_num_heads": 2, "dec_embed_dim": 24}
    arguments |= {"dec_depth": 2, "dec_num_heads": 2, "pos_embed": "RoPE100"}
    constructor = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    args = argparse.Namespace(model=f"AsymmetricCroCo3DStereo({constructor})")
    torch.save({"args": args, "model": any_tiny.state_dict()}, file)
    hub.publish(REPO, file.parent)
    assert same_weights(load_model(REPO, device="cpu"), any_tiny)
    assert checkpoint_info(REPO)["file"].endswith("model.pth")


def test_offline(
    hub: LocalHub, tiny: TwoViewModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, folder)
    with pytest.raises(FileNotFoundError, match=r"weav3r models download me/tiny`"):
        load_model(REPO, device="cpu", offline=True)
    with pytest.raises(FileNotFoundError, match=r"weav3r models download naver/MASt3R"):
        load_model("mast3r-512", device="cpu", offline=True)
    assert hub.requests == []
    load_model(REPO, device="cpu")
    hub.requests.clear()
    assert same_weights(load_model(REPO, device="cpu", offline=True), tiny)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert same_weights(load_model(REPO, device="cpu"), tiny)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE forbids"):
        push_to_hub(tiny, REPO)
    with pytest.raises(FileNotFoundError, match=r"download me/tiny --revision v9"):
        load_model(REPO, device="cpu", revision="v9")
    assert hub.requests == []


def test_without_a_connection(
    hub: LocalHub, tiny: TwoViewModel, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.publish(REPO, folder)
    load_model(REPO, device="cpu")
    hub.stop()
    assert same_weights(load_model(REPO, device="cpu"), tiny)
    assert "cannot reach the Hub" in caplog.text and "copy in the cache" in caplog.text
    with pytest.raises(ConnectionError, match=r"cannot reach the Hub at http://127.*HF_ENDPOINT"):
        load_model("me/other", device="cpu")


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, FileNotFoundError, "private"),
        (403, PermissionError, r"refuses access to me/tiny \(HTTP 403\)"),
        (500, ConnectionError, "answered HTTP 500"),
        (429, ConnectionError, "answered HTTP 429"),
    ],
)
def test_refusals(hub: LocalHub, status: int, error: type[Exception], message: str) -> None:
    hub.status = status
    with pytest.raises(error, match=message):
        load_model(REPO, device="cpu")


def test_a_download_that_breaks_off_goes_on(
    hub: LocalHub, tiny: TwoViewModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.publish(REPO, folder)
    hub.broken_off = 2
    assert same_weights(load_model(REPO, device="cpu"), tiny)


def test_a_file_that_is_broken_on_the_hub(hub: LocalHub, folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    hub.publish(REPO, folder)
    with pytest.raises(ValueError, match=r"model.safetensors is not a readable safetensors file"):
        load_model(REPO, device="cpu")


@pytest.mark.parametrize("header", ["ETag", "X_Repo_Commit"])
@pytest.mark.parametrize("name", ["../../../../../x", "a/b", "..", "a" * 200, "x\\y"])
def test_names_that_lead_out_of_the_cache(
    hub: LocalHub, folder: Path, header: str, name: str
) -> None:
    hub.publish(REPO, folder)
    hub.headers = {header: name}
    with pytest.raises(ValueError, match=r"the Hub at http://127.* file of me/tiny .*out of the"):
        load_model(REPO, device="cpu")
    assert not any(r.startswith("GET") and "/resolve/" in r for r in hub.requests)
    assert not [entry for entry in folder.parent.rglob("*") if entry.name == "x"]


def test_a_repository_whose_files_lie_in_folders(hub: LocalHub, folder: Path) -> None:
    hub.listing = b'{"id": "me/tiny", "siblings": [{"rfilename": "../../a.pth"}]}'
    with pytest.raises(FileNotFoundError, match="no single .pth file"):
        load_model(REPO, device="cpu")


@pytest.mark.parametrize(
    "listing",
    [
        b"<html>Please log in</html>",
        b"[1, 2]",
        b"[1, 2",
        b'{"id": "me/tiny", "siblings": [{"x": 1}]}',
        b'{"id": "me/tiny", "siblings": 5}',
    ],
)
def test_something_else_answers(hub: LocalHub, listing: bytes) -> None:
    hub.listing = listing
    for use in (load_model, checkpoint_info):
        with pytest.raises(ConnectionError, match=r"http://127.* for me/tiny .*HF_ENDPOINT"):
            use(REPO)


def test_files_without_names(hub: LocalHub, folder: Path) -> None:
    hub.publish(REPO, folder)
    hub.headers = {"ETag": ""}
    with pytest.raises(ConnectionError, match="no answer of a Hub.*captive portal"):
        load_model(REPO, device="cpu")


def test_a_redirect_to_nowhere(
    hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.publish(REPO, folder)
    hub.headers = {"Location": "http://127.0.0.1:1/x"}
    with pytest.raises(ConnectionError, match="cannot reach the Hub at .* for me/tiny") as caught:
        load_model(REPO, device="cpu")
    assert len(str(caught.value)) < 300 and capfd.readouterr() == ("", "")


def test_a_full_disk(hub: LocalHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.publish(REPO, folder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(OSError, match="no space left for me/tiny") as caught:
        load_model(REPO, device="cpu")
    assert caught.value.filename == str(cache_folder())

    def short(*arguments: object, **options: object) -> None:
        raise OSError("Consistency check failed: file should be of size 2")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", short)
    with pytest.raises(ConnectionError, match="broke off; run it again"):
        load_model(REPO, device="cpu")


def test_info_does_not_download(hub: LocalHub, folder: Path) -> None:
    hub.publish(REPO, folder)
    info = checkpoint_info(REPO)
    assert info["bytes"] == (folder / "model.safetensors").stat().st_size
    assert info["licence"] == "mit" and info["name"] == "tiny" and info["downloaded"] is False
    assert not any(r.endswith("model.safetensors") for r in hub.requests)
    load_model(REPO, device="cpu")
    cached = checkpoint_info(REPO)
    assert cached["sha256"] == info["sha256"] and cached["licence"] == "MIT"
    with pytest.raises(FileNotFoundError, match="models download"):
        checkpoint_info("me/other", offline=True)


def test_push_and_load(
    hub: LocalHub, tiny: TwoViewModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(PermissionError, match="refuses access to me/new"):
        tiny.push_to_hub("me/new", token="hf_wrong")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    stated = Provenance(licence="CC BY-NC 4.0", metrics={"AUC@5": "0.5"})
    url = tiny.push_to_hub("me/new", dtype="float16", provenance=stated)
    assert url.endswith("/me/new")
    files = hub.revisions["me/new"]["main"]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert isinstance(files["README.md"], bytes)
    card = files["README.md"].decode()
    assert 'load_model("me/new")' in card and "license: cc-by-nc-4.0" in card
    assert "| AUC@5 | 0.5 |" in card and str(tmp_path) not in card
    loaded = TwoViewModel.from_pretrained("me/new", device="cpu")
    assert loaded.provenance == stated
    tiny.push_to_hub("me/new", revision="draft")
    assert same_weights(load_model("me/new@draft", device="cpu"), tiny)


def test_a_local_folder_comes_first(
    hub: LocalHub, tiny: TwoViewModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    shutil.copytree(folder, Path("me") / "tiny")
    assert same_weights(load_model("me/tiny", device="cpu"), tiny)
    assert hub.requests == []
    with pytest.raises(FileNotFoundError, match="neither a file"):
        load_model("me/missing.safetensors", device="cpu")
    with pytest.raises(FileNotFoundError, match="neither a file"):
        load_model(Path("me/missing"), device="cpu")
    assert hub.requests == []


def test_names_of_presets_stand_for_published_ids(hub: LocalHub) -> None:
    with pytest.raises(FileNotFoundError, match=PUBLISHED_IDS["dust3r-512-dpt"]):
        load_model("dust3r-512-dpt", device="cpu")


def test_bundled_names_use_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    assert load_model("weav3r-small", device="cpu").config.name == "weav3r-small"


def test_bundled_names_do_not_import_the_hub_client() -> None:
    code = (
        "import weav3r, sys; weav3r.load_model('weav3r-small', device='cpu'); "
        "print(sorted({'huggingface_hub', 'httpx', 'requests'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-Pc", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt", True),
        ("a/b@v1.0", True),
        ("weav3r-small", False),
        ("a/b/c", False),
        ("a/b.pth", False),
        ("../b", False),
        ("/a/b", False),
        ("a/ b", False),
        ("a\\b", False),
    ],
)
def test_what_reads_like_a_hub_id(text: str, expected: bool) -> None:
    assert is_hub_id(text) == expected


def test_hub_ids_are_taken_apart() -> None:
    assert split_hub_id("a/b") == ("a/b", "main")
    assert split_hub_id("a/b@x/y") == ("a/b", "x/y")
    assert split_hub_id("a/b", "v1") == ("a/b", "v1")
    with pytest.raises(ValueError, match="'a' is no Hub id; expected owner/name"):
        split_hub_id("a")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/h")
    assert cache_folder() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert cache_folder() == Path("/c")
    assert cache_folder("/d") == Path("/d")


def test_the_weights_of_a_folder() -> None:
    assert choose_weights(["a.pth", "model.safetensors"]) == "model.safetensors"
    assert choose_weights(["a.pth", "README.md"]) == "a.pth"
    assert choose_weights(["a.pth", "b.pth"]) is None
    assert choose_weights(["a/b.pth", "../c.pth", "d\\e.pth"]) is None
    assert choose_weights([]) is None
