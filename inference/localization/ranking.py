"""Which photos of a map look like a query, from the encoder's own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...models.two_view import EncodedImages
from ..graph.retrieval import (
    RetrievalOptions,
    Whitening,
    learn_vocabulary,
    learn_whitening,
    word_similarity,
)

_VOCABULARY_TOKENS = 20_000


class Ranking:
    """Whitening and vocabulary of a map's own photos; queries are compared in their terms.

    What a query is compared with does not depend on the other queries of a call.
    """

    def __init__(
        self, database: Sequence[EncodedImages], options: RetrievalOptions | None = None
    ) -> None:
        """Learn from the encoded photos of the map, batch size 1 each."""
        self.options = options or RetrievalOptions()
        tokens = [_tokens(encoded) for encoded in database]
        self._whitening: Whitening = learn_whitening(
            tokens, self.options.shrinkage, self.options.dimensions
        )
        self._features = [self._described(t) for t in tokens]
        every = max(1, sum(map(len, self._features)) // _VOCABULARY_TOKENS)
        self._vocabulary = learn_vocabulary(
            torch.cat(self._features)[::every], self.options.words, self.options.seed
        )

    def rank(self, query: EncodedImages, count: int) -> list[tuple[int, float]]:
        """The `count` most similar photos as (index, similarity in [0, 1]), best first."""
        features = [*self._features, self._described(_tokens(query))]
        words = self.options.assignments
        similarity = word_similarity(features, self._vocabulary, words, words)
        own = similarity.diagonal().clamp_min(1e-12).sqrt()
        both = 0.5 * (similarity[-1, :-1] + similarity[:-1, -1]) / own[-1] / own[:-1]
        order = torch.argsort(both, descending=True, stable=True)[:count]
        return [(int(i), float(both[i].clamp(0.0, 1.0))) for i in order]

    def _described(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._whitening.apply(tokens), dim=-1)


def _tokens(encoded: EncodedImages) -> Tensor:
    return encoded.tokens.reshape(-1, encoded.tokens.shape[-1]).float().cpu()
