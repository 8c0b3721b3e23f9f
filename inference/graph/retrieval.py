"""Which photos look alike: similarity of images from the encoder's own tokens.

The tokens of a collection whiten themselves (a principal component analysis with shrinkage), vote
for the words of a small vocabulary that is learnt from them, and images are compared word by word.
Nothing is trained and no other network runs.

Reference: Tolias, Avrithis & Jegou, "To Aggregate or Not to Aggregate: Selective Match Kernels for
Image Search", ICCV 2013 (ASMK).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ...models.two_view import EncodedImages

_VOCABULARY_TOKENS = 20_000  # that k-means sees
_VOCABULARY_ROUNDS = 8


@dataclass(frozen=True)
class RetrievalOptions:
    """How tokens become a similarity of images.

    Attributes:
        words: size of the vocabulary.
        assignments: words that each token votes for.
        shrinkage: added to the variances before whitening, as a share of their mean.
        dimensions: principal components kept.
        seed: of the vocabulary's start.
    """

    words: int = 32
    assignments: int = 3
    shrinkage: float = 1e-3
    dimensions: int = 256
    seed: int = 0


@dataclass(frozen=True)
class Whitening:
    """An affine map after which features have unit covariance.

    Attributes:
        mean: (D,) float64.
        projection: (D, E) float64, columns by decreasing variance.
    """

    mean: Tensor
    projection: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """Whiten (..., D) to (..., E), computed in float64, returned as float32."""
        return ((features.double() - self.mean) @ self.projection).float()


def image_similarity(
    encoded: Sequence[EncodedImages], options: RetrievalOptions | None = None
) -> NDArray[np.float32]:
    """Compare all photos of a collection by their tokens.

    Args:
        encoded: features of batch size 1, as `encode_views` returns them.
        options: see `RetrievalOptions`.

    Returns:
        (N, N) symmetric, 1 on the diagonal, higher is more alike. Deterministic.

    Raises:
        ValueError: no image.
    """
    options = options or RetrievalOptions()
    if not encoded:
        raise ValueError("image_similarity needs at least one encoded image, got none")
    whitening = learn_whitening(map(_tokens, encoded), options.shrinkage, options.dimensions)
    features = [
        torch.nn.functional.normalize(whitening.apply(tokens), dim=-1)
        for tokens in map(_tokens, encoded)
    ]
    every = max(1, sum(map(len, features)) // _VOCABULARY_TOKENS)
    vocabulary = learn_vocabulary(torch.cat(features)[::every], options.words, options.seed)
    similarity = word_similarity(features, vocabulary, options.assignments, options.assignments)
    similarity = 0.5 * (similarity + similarity.T)
    own = similarity.diagonal().clamp_min(1e-12).sqrt()
    similarity = (similarity / own[:, None] / own).clamp(0.0, 1.0)
    return similarity.fill_diagonal_(1.0).numpy()


def learn_whitening(
    features: Iterable[Tensor], shrinkage: float = 0.0, dimensions: int | None = None
) -> Whitening:
    """Learn the whitening of features from their own mean and covariance, in one pass.

    Args:
        features: each (n, D), at least one.
        shrinkage: added to the variances, as a share of their mean; damps the noise of components
            that hardly vary.
        dimensions: components kept; None keeps all.
    """
    parts = iter(features)
    first = next(parts).double()
    shift, count = first.mean(0), 0  # near the mean, so that no digits are lost
    total = torch.zeros_like(shift)
    square = torch.zeros(len(shift), len(shift), dtype=torch.float64)
    for part in chain([first], parts):
        moved = part.double() - shift
        total += moved.sum(0)
        square += moved.T @ moved
        count += len(part)
    offset = total / count
    covariance = square / count - offset[:, None] * offset
    variance, axes = torch.linalg.eigh(covariance)
    variance, axes = variance.flip(0).clamp_min(1e-14), axes.flip(1)
    deviation = (variance + shrinkage * variance.mean()).sqrt()
    return Whitening(shift + offset, (axes / deviation)[:, :dimensions])


def learn_vocabulary(features: Tensor, words: int, seed: int = 0) -> Tensor:
    """Cluster features (n, D) into at most `words` centroids (k-means, repeatable)."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randperm(len(features), generator=generator)[:words]
    centroids = features[start].clone()
    for _ in range(_VOCABULARY_ROUNDS):
        word = _nearest_words(features, centroids, 1)[:, 0]
        total = torch.zeros_like(centroids).index_add_(0, word, features)
        size = torch.bincount(word, minlength=len(centroids))[:, None]
        centroids = torch.where(size > 0, total / size.clamp_min(1), centroids)
    return centroids


def word_similarity(
    features: Sequence[Tensor],
    vocabulary: Tensor,
    query_words: int = 5,
    database_words: int = 1,
    binary: bool = False,
    power: float = 3.0,
) -> Tensor:
    """Compare images by the residuals that their features leave at common words.

    Args:
        features: per image (n, D).
        vocabulary: (k, D) centroids.
        query_words: words that each feature of a query votes for.
        database_words: the same when the image is looked for.
        binary: compare signs of summed residuals, as the published code does, in place of summed
            directions.
        power: of the (non-negative) similarity at a word.

    Returns:
        (N, N) float32, row = query, column = database image.
    """
    query, query_has = _aggregate(features, vocabulary, query_words, binary)
    if database_words == query_words:
        database, database_has = query, query_has
    else:
        database, database_has = _aggregate(features, vocabulary, database_words, binary)
    dimension = vocabulary.shape[1]
    bits = 32 * -(-dimension // 32) if binary else dimension
    padding = (bits - dimension) / bits  # unused bits of a signature agree
    score = torch.zeros(len(features), len(features))
    for word in range(len(vocabulary)):
        alike = query[:, word] @ database[:, word].T
        if binary:
            alike = alike / bits + padding
        both = query_has[:, word, None] & database_has[None, :, word]
        score += torch.where(both, alike.clamp_min(0.0) ** power, 0.0)
    norms = [has.sum(1).clamp_min(1).sqrt() for has in (query_has, database_has)]
    return score / norms[0][:, None] / norms[1]


def select_tokens(features: Tensor, attention: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """Keep the features of highest attention.

    Args:
        features: (B, n, D).
        attention: (B, n).
        count: how many; a negative number is a share, -0.25 keeps a quarter.

    Returns:
        (features (B, m, D), indices (B, m)), highest attention first.
    """
    total = features.shape[1]
    kept = min(total, int(count) if count >= 0 else int(-count * total))
    index = attention.topk(kept, dim=1).indices
    return features.take_along_dim(index[..., None], dim=1), index


def weighted_descriptor(features: Tensor, attention: Tensor) -> Tensor:
    """Sum features (B, n, D) with their attention (B, n) to one unit vector per image (B, D)."""
    return torch.nn.functional.normalize((features * attention[..., None]).sum(1), dim=-1)


def farthest_images(
    similarity: ArrayLike, count: int, first: int | None = None
) -> tuple[list[int], list[float]]:
    """Pick images that are unlike each other (farthest point sampling).

    Args:
        similarity: (N, N); 1 - similarity is the distance.
        count: number of images to pick, at most N.
        first: the first one; default: the image most like all others.

    Returns:
        (images in the order they were picked, distance of each to those before it; 0 for the
        first).
    """
    distance = 1.0 - np.asarray(similarity, dtype=float)
    if count <= 0:
        return [], []
    start = int(distance.sum(1).argmin()) if first is None else first
    picked, gaps = [start], [0.0]
    nearest = distance[start].copy()
    while len(picked) < min(count, len(distance)):
        nearest[picked] = -np.inf
        following = int(nearest.argmax())
        gaps.append(float(nearest[following]))
        picked.append(following)
        nearest = np.minimum(nearest, distance[following])
    return picked, gaps


def _tokens(encoded: EncodedImages) -> Tensor:
    return encoded.tokens.reshape(-1, encoded.tokens.shape[-1]).float().cpu()


def _nearest_words(features: Tensor, vocabulary: Tensor, count: int) -> Tensor:
    """(n, count) indices of the nearest centroids."""
    closeness = features @ vocabulary.T - 0.5 * vocabulary.square().sum(1)
    return closeness.topk(min(count, len(vocabulary)), dim=1).indices


def _aggregate(
    features: Sequence[Tensor], vocabulary: Tensor, assignments: int, binary: bool
) -> tuple[Tensor, Tensor]:
    """Per image and word the summed residuals (N, k, D), and whether any feature voted (N, k)."""
    words, dimension = vocabulary.shape
    summed = torch.zeros(len(features), words, dimension)
    voted = torch.zeros(len(features), words, dtype=torch.bool)
    for image, feature in enumerate(features):
        for word in _nearest_words(feature, vocabulary, assignments).T:
            residual = feature - vocabulary[word]
            if not binary:
                residual = torch.nn.functional.normalize(residual, dim=-1)
            summed[image].index_add_(0, word, residual)
            voted[image, word] = True
    if binary:
        return torch.where(summed > 0, 1.0, -1.0), voted
    return torch.nn.functional.normalize(summed, dim=-1), voted
