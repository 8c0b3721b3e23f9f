"""ONNX files compute what the network computes, at sizes that the exporter never saw."""

import builtins
import dataclasses
import importlib.util
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import weav3r
from weav3r.cli import app
from weav3r.models import PRESETS, TwoViewModel
from weav3r.models.onnx_export import OnnxExport, encoded_names, export_onnx, prediction_names
from weav3r.models.onnx_runtime import OnnxFeatures, OnnxTwoViewModel

TOLERANCE = 1e-4  # of the largest value; float32 sums in another order differ by 1e-6

SQUARE, LANDSCAPE, PORTRAIT = (224, 224), (288, 384), (384, 288)
ODD, OTHER_ODD = (80, 48), (48, 112)  # 5x3 and 3x7 tokens
SIZES = [
    *((size, size) for size in (SQUARE, LANDSCAPE, PORTRAIT, ODD)),
    (ODD, OTHER_ODD),
    (LANDSCAPE, SQUARE),
]

Exported = tuple[TwoViewModel, OnnxExport]


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundled network, exported by the command."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("onnx")
    run = CliRunner().invoke(app, ["models", "export", "weav3r-small", str(folder), "--onnx"])
    assert run.exit_code == 0, run.output
    files = [folder / name for name in ("encoder.onnx", "decoder.onnx", "README.md")]
    sizes = {file.name: file.stat().st_size for file in files[:2]}
    return weav3r.load_model("weav3r-small", device="cpu"), OnnxExport(*files, sizes)  # pyright: ignore


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny network with the heads of the published ones, its weights in files of their own."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = TwoViewModel(
        dataclasses.replace(
            PRESETS["mast3r-512"],
            encoder_dim=16,
            encoder_depth=1,
            encoder_heads=2,
            decoder_dim=16,
            decoder_depth=1,
            decoder_heads=2,
            dpt_hooks=(0, 0, 1, 1),
            dpt_layer_dims=(4, 6, 8, 10),
            dpt_feature_dim=8,
            dpt_last_dim=4,
        )
    ).eval()
    folder = tmp_path_factory.mktemp("onnx")
    return model, export_onnx(model, folder, external_data=True)


def images(size: tuple[int, int], seed: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, *size, generator=generator) * 2 - 1


def largest_deviation(exported: Exported, sizes, batch: int = 1) -> float:
    """Largest difference over all outputs, each relative to its largest value."""
    model, files = exported
    first, second = (images(size, seed, batch) for seed, size in enumerate(sizes))
    with torch.inference_mode():
        expected = model.decode(model.encode(first), model.encode(second))
    runtime = OnnxTwoViewModel(files.encoder.parent)
    given = runtime.decode(runtime.encode(first.numpy()), runtime.encode(second.numpy()))
    deviations = []
    for view in ("view1", "view2"):
        for name in prediction_names(model.config):
            ours = getattr(getattr(given, view), name)
            theirs = getattr(getattr(expected, view), name).numpy()
            assert ours.shape == theirs.shape and ours.dtype == np.float32
            deviations.append(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return float(max(deviations))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sizes", SIZES)
def test_bundled_network_is_the_same_at_every_size(bundled: Exported, sizes) -> None:
    assert largest_deviation(bundled, sizes) < TOLERANCE
    assert OnnxTwoViewModel(bundled[1].encoder.parent).licence == "Apache-2.0"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sizes", [(ODD, ODD), (PORTRAIT, ODD), (LANDSCAPE, OTHER_ODD)])
def test_published_heads_are_the_same_at_every_size(published: Exported, sizes) -> None:
    assert largest_deviation(published, sizes) < TOLERANCE
    assert largest_deviation(published, sizes, batch=2) < TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_files_say_what_they_are(published: Exported) -> None:
    model, files = published
    folder = files.encoder.parent
    names = {"encoder.onnx", "decoder.onnx", "README.md"}
    names |= {"encoder.onnx.data", "decoder.onnx.data"}  # asked for by the fixture
    assert {file.name for file in folder.iterdir()} == names
    assert files.bytes["decoder.onnx"] == sum(
        (folder / name).stat().st_size for name in ("decoder.onnx", "decoder.onnx.data")
    )
    runtime = OnnxTwoViewModel(folder)
    assert runtime.config == model.config and runtime.licence == "not stated"
    for file in (files.encoder, files.decoder):
        assert str(Path(weav3r.__file__).parent).encode() not in file.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme_runs(published: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, files = published
    text = files.readme.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "snippet.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(files.readme.parent)
    functions = runpy.run_path(str(tmp_path / "snippet.py"))
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    features = functions["encode"](rgb)
    assert list(features) == encoded_names(model.config)
    outputs = functions["decode"](features, features)
    assert outputs["pointmap_view2"].shape == (1, 48, 64, 3)
    norm = np.linalg.norm(outputs["descriptors_view1"], axis=-1)
    assert norm == pytest.approx(np.ones_like(norm), abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runtime_refuses_what_does_not_fit(published: Exported) -> None:
    runtime = OnnxTwoViewModel(published[1].encoder.parent)
    with pytest.raises(ValueError, match="multiples of patch_size=16"):
        runtime.encode(np.zeros((1, 3, 40, 64), np.float32))
    with pytest.raises(ValueError, match="at least two patches"):
        runtime.encode(np.zeros((1, 3, 16, 64), np.float32))
    one = runtime.encode(np.zeros((1, 3, 48, 64), np.float32))
    with pytest.raises(ValueError, match="as many first as second images, got 1 and 2"):
        runtime.decode(one, one.select([0, 0]))


def test_command_wants_a_format(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["models", "export", "weav3r-small", str(tmp_path / "out")])
    assert isinstance(run.exception, ValueError) and "--onnx" in str(run.exception)
    assert not (tmp_path / "out").exists()


def test_features_are_selected_together() -> None:
    features = OnnxFeatures({"features": np.arange(6).reshape(3, 2), "positions": np.arange(3)})
    chosen = features.select([2, 0])
    assert len(features) == 3 and len(chosen) == 2
    assert chosen.arrays["positions"].tolist() == [2, 0]


@pytest.mark.parametrize("preset", PRESETS)
def test_names_fit_the_network(preset: str) -> None:
    config = PRESETS[preset]
    assert ("descriptors" in prediction_names(config)) == bool(config.descriptor_dim)
    assert ("local_s8" in encoded_names(config)) == (config.descriptor_head == "local")


def test_missing_packages_are_named(
    tiny: TwoViewModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find: Callable = importlib.util.find_spec
    hidden = ("onnx", "onnxscript")
    monkeypatch.setattr(
        "weav3r.models.onnx_export.find_spec", lambda name: None if name in hidden else find(name)
    )
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript: pip install 'weav3r\[onnx"):
        export_onnx(tiny, tmp_path)
    import_ = builtins.__import__

    def without_runtime(name: str, *rest, **more):
        if name == "onnxruntime":
            raise ImportError(name)
        return import_(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_runtime)
    with pytest.raises(ImportError, match=r"onnxruntime: pip install 'weav3r\[onnx\]'"):
        OnnxTwoViewModel(tmp_path)


def test_only_float32_on_the_cpu_is_exported(tiny: TwoViewModel, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="float32 on the CPU"):
        export_onnx(tiny.half(), tmp_path)


def test_runtime_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError, match="encoder.onnx does not exist"):
        OnnxTwoViewModel(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(b"not a network")
    with pytest.raises(ValueError, match="encoder.onnx cannot be read by ONNX Runtime"):
        OnnxTwoViewModel(tmp_path)
