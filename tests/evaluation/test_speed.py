"""The speed measurement: what it reports, not how fast anything is."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from weav3r.cli import app
from weav3r.evaluation.hardware import PEAKS, memory_meter, peak_tflops
from weav3r.evaluation.speed import (
    STAGES,
    SpeedSettings,
    count_operations,
    measure_speed,
    parse_size,
)
from weav3r.evaluation.speed_report import SpeedReport
from weav3r.models import PRESETS, ModelConfig, TwoViewModel

SIZE = (32, 48)
PAIR_KEYS = {
    *("name", "per", "milliseconds", "cpu_seconds", "peak_bytes", "operations"),
    *("tflops_per_s", "share_of_peak"),
}


def tiny_config(preset: str) -> ModelConfig:
    return dataclasses.replace(
        PRESETS[preset],
        encoder_dim=32,
        encoder_depth=2,
        encoder_heads=2,
        decoder_dim=24,
        decoder_depth=2,
        decoder_heads=2,
        dpt_layer_dims=(4, 6, 8, 10),
        dpt_feature_dim=8,
        dpt_last_dim=4,
        local_dims=(4, 6, 8, 12),
        local_token_dim=12,
    )


@pytest.fixture(scope="module")
def report() -> SpeedReport:
    model = TwoViewModel(tiny_config("mast3r-512"))
    settings = SpeedSettings(
        size=SIZE, device="cpu", repeat=2, batch=2, threads=1, graph="linear", images=4
    )
    return measure_speed(model, settings)


def test_report_holds_every_stage(report: SpeedReport, tmp_path: Path) -> None:
    report.write(tmp_path / "made" / "speed.json")
    data = json.loads((tmp_path / "made" / "speed.json").read_text())
    assert data["benchmark"] == "network" and data["model"] == "mast3r-512"
    assert data["image_size"] == list(SIZE) and data["weights"] == "given"
    assert set(data["stages"]) == {*STAGES, "total"}
    for stage in data["stages"].values():
        assert set(stage) == PAIR_KEYS
        assert stage["milliseconds"] > 0 and stage["operations"] > 0
        assert stage["share_of_peak"] is None  # processors have no table
    assert data["weights_bytes"] == 4 * data["parameters"]
    assert {"cpu", "cuda", "load_average", "packages", "torch_threads"} <= set(data["environment"])
    assert data["environment"]["torch_threads"] == 1


def test_the_whole_is_the_sum_of_its_stages(report: SpeedReport) -> None:
    encoder, decoder, heads, total = report.stages
    assert [s.per for s in report.stages] == ["image", "pair", "pair", "pair"]
    assert total.operations == 2 * encoder.operations + decoder.operations + heads.operations
    assert report.pairs_per_s == pytest.approx(1000 / total.milliseconds)
    peaks = [s.peak_bytes for s in report.stages]
    known = [p for p in peaks if p is not None]
    assert total.peak_bytes == max(known, default=None)


def test_graph_streams_every_pair(report: SpeedReport) -> None:
    assert report.graph is not None
    assert (report.graph.images, report.graph.pairs) == (4, 6)
    assert report.graph.encode_seconds > 0 and report.graph.pairs_per_s > 0


def test_table_and_summary_name_what_was_measured(report: SpeedReport) -> None:
    assert report.table().row_count == 4
    summary = report.summary()
    for text in ("mast3r-512", "given weights", "48x32", "float32", "4 images", "6 pairs"):
        assert text in summary


def test_operations_of_a_linear_network_are_those_of_the_formula() -> None:
    """Per token and block: 24 d^2 for the matrices, 4 N d for the attention (MLP ratio 4)."""
    config = tiny_config("dust3r-512-linear")
    counted = count_operations(config, SIZE)
    enc, dec, tokens = config.encoder_dim, config.decoder_dim, 6
    block = 24 * tokens * enc**2 + 4 * tokens**2 * enc
    assert counted["encoder"] == 2 * tokens * 768 * enc + config.encoder_depth * block
    # A decoder block has two attentions; two views, two directions; embeddings may be shared.
    block = 32 * tokens * dec**2 + 8 * tokens**2 * dec
    embed = 2 * tokens * enc * dec
    assert counted["decoder"] - 4 * config.decoder_depth * block in (2 * embed, 4 * embed)
    assert counted["heads"] == 4 * 2 * tokens * dec * 4 * 256


def test_reduced_precision_runs(report: SpeedReport) -> None:
    model = TwoViewModel(tiny_config("dust3r-512-dpt"))
    settings = SpeedSettings(size=SIZE, device="cpu", dtype="bfloat16", repeat=1)
    assert measure_speed(model, settings).dtype == "bfloat16"


def test_preset_without_weights_gets_random_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "mast3r-512", tiny_config("mast3r-512"))
    steps: list[str] = []
    settings = SpeedSettings(size=64, device="cpu", repeat=1)
    report = measure_speed("mast3r-512", settings, steps.append)
    assert report.weights == "random" and report.image_size == (48, 64) and report.graph is None
    assert steps == ["loading", "warm-up, memory", "run 1 of 1"]


def test_hooks_and_thread_count_are_taken_back() -> None:
    model = TwoViewModel(tiny_config("dust3r-512-linear"))
    before = torch.get_num_threads()
    measure_speed(model, SpeedSettings(size=SIZE, device="cpu", repeat=1, threads=1))
    assert torch.get_num_threads() == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_memory_meter_sees_an_allocation() -> None:
    meter = memory_meter(torch.device("cpu"))
    meter.restart()
    before = meter.peak()
    if before is None or not meter.per_stage:
        pytest.skip("this system cannot restart a process's peak")
    block = torch.ones(2**24)
    after = meter.peak()
    assert after is not None and after - before > block.nbytes * 0.9


@pytest.mark.parametrize(
    ("name", "dtype", "tf32", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", False, 989.4),
        ("NVIDIA H100 PCIe", "float16", False, 756.4),
        ("NVIDIA H200", "float32", True, 494.7),
        ("NVIDIA A100-SXM4-80GB", "float32", False, 19.5),
        ("Tesla V100-SXM2-16GB", "bfloat16", False, None),
        ("NVIDIA A1000 Laptop GPU", "bfloat16", False, None),
    ],
)
def test_peak_throughput(name: str, dtype, tf32: bool, expected: float | None) -> None:
    assert peak_tflops(name, dtype, tf32) == expected
    assert all(peak.source for peak in PEAKS)


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("512x384", (384, 512))])
def test_size_is_width_by_height_on_the_command_line(text: str, size) -> None:
    assert parse_size(text) == size


def test_command_writes_json(tmp_path: Path) -> None:
    arguments = ["benchmark", "--size", "64x48", "--device", "cpu", "--repeat", "1", "--threads"]
    run = CliRunner().invoke(app, [*arguments, "1", "--json", str(tmp_path / "speed.json")])
    assert run.exit_code == 0, run.output
    assert "encoder" in run.output and "64x48, float32, batch 1" in run.output
    data = json.loads((tmp_path / "speed.json").read_text())
    assert data["image_size"] == [48, 64] and data["graph"] is None


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="WIDTHxHEIGHT or the long side"):
        parse_size("512*384")
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        SpeedSettings(dtype="int8")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="repeat must be at least 1, got 0"):
        SpeedSettings(repeat=0)
    with pytest.raises(ValueError, match="at least two images"):
        SpeedSettings(graph="complete", images=1)
    model = TwoViewModel(tiny_config("dust3r-512-linear"))
    with pytest.raises(ValueError, match="multiples of patch_size=16, got 32x40"):
        measure_speed(model, SpeedSettings(size=(32, 40), device="cpu"))
    with pytest.raises(ValueError, match="unknown pair graph 'star'"):
        measure_speed(model, SpeedSettings(size=SIZE, device="cpu", graph="star"))
