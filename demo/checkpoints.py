"""The networks that the page offers: loaded when they are first asked for, few at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from ..models.checkpoint import bundled_weights, remote_id
from ..models.hub_cache import is_hub_id
from ..models.loading import load_model
from ..models.two_view import TwoViewModel

MAX_LOADED = 2


class Checkpoints:
    """Networks by the name that the page shows. No path leaves this class.

    Args:
        sources: bundled names, folders, files or Hub ids that the operator offers, the default
            first.
        device: where the networks run.
        allow_download: whether people may ask for any Hub id.

    Raises:
        ValueError: there are no sources.
    """

    def __init__(
        self, sources: Sequence[str | Path], device: str = "auto", allow_download: bool = False
    ) -> None:
        if not sources:
            raise ValueError("name at least one checkpoint")
        self.device, self.allow_download = device, allow_download
        self._sources: dict[str, str | Path] = {}
        for source in sources:
            name = _shown_name(source)
            number = 1
            while name in self._sources:
                number += 1
                name = f"{_shown_name(source)} ({number})"
            self._sources[name] = source
        self._loaded: OrderedDict[str, TwoViewModel] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """What can be chosen, the default first."""
        return list(self._sources)

    def get(self, name: str | None = None) -> TwoViewModel:
        """Load a network, or take it from memory.

        Args:
            name: one of `names`, or a Hub id where downloads are allowed; None: the default.

        Raises:
            ValueError: there is no such checkpoint, or it cannot be used; no path of this computer
                is in the message, unless the operator gave it.
        """
        name = (name or self.names[0]).strip()
        if name in self._sources:
            source = self._sources[name]
        elif self.allow_download and is_hub_id(name) and remote_id(name) is not None:
            source = name
        else:
            more = ", or a Hub id such as owner/name" if self.allow_download else ""
            raise ValueError(f"there is no checkpoint {name[:80]!r}; choose one of the list{more}")
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
                return self._loaded[name]
            while len(self._loaded) >= MAX_LOADED:
                self._loaded.popitem(last=False)
            self._loaded[name] = load_model(source, device=self.device)
            return self._loaded[name]


def _shown_name(source: str | Path) -> str:
    """The name itself where it is one, else the last part of a path."""
    text = str(source)
    if bundled_weights(text) is not None or (is_hub_id(text) and not Path(text).exists()):
        return text
    path = Path(text).expanduser()
    return path.stem if path.suffix in (".safetensors", ".pth") else path.resolve().name
