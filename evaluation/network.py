"""A checkpoint as an evaluation method that encodes each image only once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..inference.defaults import inference_size
from ..inference.images import View, load_images
from ..inference.localization.ranking import Ranking
from ..inference.matching.descriptors import Matches
from ..inference.matching.methods import Matcher, MatcherOptions, match_views, matcher_options
from ..inference.predict import encode_views, predict_pairs
from ..models.loading import load_model
from ..models.two_view import EncodedImages, TwoViewModel


class NetworkMatcher:
    """Two image paths in, matches in original pixels out; also ranks photos by likeness.

    Matches as `weav3r.match` does with the same options.
    """

    def __init__(
        self,
        model: TwoViewModel | str | Path = "weav3r-small",
        *,
        device: str = "auto",
        size: int | None = None,
        matcher: Matcher | None = None,
        options: MatcherOptions | None = None,
        cached_images: int = 32,
    ) -> None:
        """Load the model once.

        Args:
            model: a loaded model, or anything that `load_model` takes.
            device: where it runs; ignored for a loaded model.
            size: long side of the network's input in pixels; None takes the model's best.
            matcher: its name, as of `weav3r.match`; None: that of the options, or the default for
                the checkpoint.
            options: of the matcher; None takes its defaults.
            cached_images: encoded images that are kept.
        """
        self.model = model if isinstance(model, TwoViewModel) else load_model(model, device=device)
        self.size = inference_size(self.model) if size is None else size
        self.options = matcher_options(matcher, options, self.model.config.descriptor_dim > 0)
        self.cached_images = cached_images
        self._cache: OrderedDict[Path, tuple[View, EncodedImages]] = OrderedDict()

    @property
    def description(self) -> Mapping[str, object]:
        """What a report writes down about this method."""
        return {"size": self.size, **asdict(self.options)}

    def __call__(self, path1: Path, path2: Path) -> Matches:
        """Match two images, surest matches first."""
        (view1, first), (view2, second) = self.encoded(path1), self.encoded(path2)
        result = next(predict_pairs(self.model, [first, second], [(0, 1)]))
        return match_views(result, view1, view2, self.options, self.model.device)

    def encoded(self, path: Path) -> tuple[View, EncodedImages]:
        """An image and its features, from the cache if they are there."""
        if path in self._cache:
            self._cache.move_to_end(path)
            return self._cache[path]
        loaded = load_images([path], self.size, self.model.config.patch_size)
        view = loaded.views[0]
        self._cache[path] = view, encode_views(self.model, [view])[0]
        while len(self._cache) > self.cached_images:
            self._cache.popitem(last=False)
        return self._cache[path]

    def rank(
        self, queries: Sequence[Path], database: Sequence[Path], count: int
    ) -> list[list[int]]:
        """For each query the indices of the `count` most similar photos, best first."""
        ranking = Ranking([self.encoded(path)[1] for path in database])
        found = [ranking.rank(self.encoded(query)[1], count) for query in queries]
        return [[index for index, _ in one] for one in found]
