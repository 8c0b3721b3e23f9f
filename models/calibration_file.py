"""The file beside the weights that says how large their errors are; see `inference.calibration`.

It names the weights that it was fitted for: other weights under the same name have other errors.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .storage import file_sha256, read_text

logger = logging.getLogger(__name__)

_WEIGHTS = "weights_sha256"


def calibration_path(weights: Path) -> Path:
    """Where the calibration of a weights file lies: `model.calibration.json` beside it."""
    return weights.with_name(f"{weights.stem}.calibration.json")


def read_calibration(weights: Path) -> dict[str, Any] | None:
    """Read what `write_calibration` wrote for these weights.

    Returns:
        The calibration as plain data; None where there is none, or, with a warning in the log,
        where it is unreadable or was fitted for other weights.
    """
    file = calibration_path(weights)
    if not file.is_file():
        return None
    try:
        data = json.loads(read_text(file))
        fitted_for = data.pop(_WEIGHTS)
    except (OSError, ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        logger.warning("%s is no calibration (%s); errors are not estimated", file, error)
        return None
    if fitted_for != file_sha256(weights):
        logger.warning(
            "%s was fitted for other weights than %s; errors are not estimated until it is fitted "
            "anew: weav3r reliability --fit",
            *(file, weights.name),
        )
        return None
    return data


def write_calibration(weights: Path, data: Mapping[str, Any]) -> Path:
    """Write a calibration beside the weights that it was fitted for.

    Returns:
        The file.
    """
    file = calibration_path(weights)
    text = json.dumps({_WEIGHTS: file_sha256(weights), **data}, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
    return file
