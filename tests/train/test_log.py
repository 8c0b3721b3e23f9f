"""Records of a run."""

from __future__ import annotations

import math

import pytest

from weav3r.train.log import RunLog, format_duration, format_values, read_log


def test_records_append(tmp_path) -> None:
    for step in (1, 2):
        log = RunLog(tmp_path)
        log.write("train", step, {"loss": 0.123456789, "bad": math.nan, "seeds": [1, 2]})
        log.close()
    first, second = read_log(tmp_path)
    assert (first["kind"], first["step"], second["step"]) == ("train", 1, 2)
    assert (first["loss"], first["bad"], first["seeds"]) == (0.123457, None, [1, 2])


def test_tensorboard_files(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    log = RunLog(tmp_path, tensorboard=True)
    log.write("train", 1, {"loss": 0.5})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_silent_log_writes_nothing() -> None:
    log = RunLog(None)
    log.write("train", 1, {"loss": 1.0})
    log.close()


def test_missing_log(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no log of a run"):
        read_log(tmp_path)


def test_formats() -> None:
    assert format_values({"loss": 0.123456, "step": 3}) == "loss 0.1235  step 3"
    assert format_duration(185) == "3m05s"
    assert format_duration(3725) == "1h02m"
    assert format_duration(math.inf) == "unknown"
