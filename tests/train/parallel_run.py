"""Train a few steps as one of several processes, or alone; run by `test_parallel`.

Usage: parallel_run.py RECIPE.json FOLDER [STEP]. With STEP the process dies there, as if killed.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from tests.train.conftest import FakeScenes

from weav3r.datasets.views import ViewBatch
from weav3r.train.config import recipe_from_dict
from weav3r.train.engine import train


class Deadly(FakeScenes):
    """Scenes that end the process when step `stop_at` asks for them."""

    stop_at = 10**9

    def batch(self, start_index: int, batch_size: int) -> ViewBatch:
        if start_index >= self.stop_at * batch_size:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(start_index, batch_size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe = recipe_from_dict(json.loads(Path(sys.argv[1]).read_text()))
    if len(sys.argv) > 3:
        Deadly.stop_at = int(sys.argv[3])
    train(recipe, output=sys.argv[2], device="cpu", make_scenes=Deadly)
