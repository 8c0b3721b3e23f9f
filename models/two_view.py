"""The two-view network: images in, pointmaps of both views in the first camera's frame out."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..croco_like.attention import NORM_EPS
from ..croco_like.blocks import DecoderBlock, EncoderBlock, init_transformer_
from ..croco_like.linear import Linear, runs_eagerly
from ..croco_like.patch_embed import PatchEmbed, transposed_rows
from ..croco_like.rope import RotaryTables, rotary_tables
from .config import PRESETS, ModelConfig
from .heads import RawMaps, ViewHead, full_precision, layers_read
from .heads.local import LocalDecoder, LocalPyramid, init_local_
from .outputs import (
    EncodedImages,
    PairPrediction,
    ViewPrediction,
    activate_confidence,
    activate_descriptors,
    activate_points,
    normalised_coordinates,
)

if TYPE_CHECKING:
    from .card import Provenance
    from .convert import Layout, SavedFolder
    from .storage import StorageDtype

__all__ = [
    "PRESETS",
    "EncodedImages",
    "ModelConfig",
    "PairPrediction",
    "TwoViewModel",
    "ViewPrediction",
]

_LARGE_INPUT = 2**18  # values of the tokens of an image


class TwoViewModel(nn.Module):
    """Siamese encoder, two decoders that read each other, and one set of heads per view.

    Parameter names of the standard parts are those of the published DUSt3R and MASt3R files.

    Args:
        config: shape of the network; `PRESETS` holds the named ones.

    Attributes:
        provenance: licence and training data of the weights, None for fresh ones.
        calibration: how large their errors are, as plain data; None when nobody fitted that.

    Reference: DUSt3R (arXiv 2312.14132) and MASt3R (arXiv 2406.09756).
    """

    provenance: Provenance | None = None
    calibration: Mapping[str, Any] | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        enc, dec = config.encoder_dim, config.decoder_dim
        # In every published file; only cross-view completion reads it.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec), requires_grad=False)
        self.patch_embed = PatchEmbed(enc, config.patch_size)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(enc, config.encoder_heads, config.mlp_ratio, config.qk_norm)
            for _ in range(config.encoder_depth)
        )
        self.enc_norm = nn.LayerNorm(enc, NORM_EPS)
        self.decoder_embed = Linear(enc, dec)
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(dec, config.decoder_heads, config.mlp_ratio, config.qk_norm)
            for _ in range(config.decoder_depth)
        )
        self.dec_norm = nn.LayerNorm(dec, NORM_EPS)
        if config.coordinate_features:
            self.coordinate_embed = Linear(NUM_COORDINATE_FEATURES, enc)
        init_transformer_(self)
        self.patch_embed.init_()
        self.dec_blocks2 = copy.deepcopy(self.dec_blocks)
        self.downstream_head1 = ViewHead(config)
        self.downstream_head2 = ViewHead(config)
        if config.descriptor_head == "local":
            channels = config.descriptor_dim + config.two_confidences
            self.local_pyramid = LocalPyramid(config.local_dims)
            self.local_decoder = LocalDecoder(config.local_dims, channels)
            init_local_(self.local_pyramid)
            init_local_(self.local_decoder)
            init_transformer_(self.downstream_head1)
            init_transformer_(self.downstream_head2)
        if config.freeze == "encoder":  # not its last norm, as in the published training
            self.patch_embed.requires_grad_(False)
            self.enc_blocks.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.mask_token.device

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> TwoViewModel:
        """Load a network with its weights; the same as `weav3r.load_model`."""
        from .loading import load_model

        return load_model(source, **options)

    def save_pretrained(
        self,
        folder: str | Path,
        dtype: StorageDtype = "float32",
        layout: Layout = "weav3r",
        provenance: Provenance | None = None,
    ) -> SavedFolder:
        """Write weights, configuration and model card into a folder.

        Args:
            folder: made if needed; files of these names in it are replaced.
            dtype: of the stored weights: "float32", "float16", "bfloat16" or "int8".
            layout: "weav3r", or "published" for classes of the published code.
            provenance: what to state in file and card; None: that of this network.

        Returns:
            The weights file, its size and SHA-256.

        Raises:
            ValueError: for weights that do not fit `dtype`, or a network that does not fit
                `layout`.
        """
        from .convert import save_pretrained

        return save_pretrained(self, folder, dtype=dtype, layout=layout, provenance=provenance)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload weights, configuration and model card to the Hub.

        Args:
            repo_id: `owner/name`, made if needed.
            **options: of `weav3r.models.hub.push_to_hub`: `dtype`, `layout` and `provenance` as for
                `save_pretrained`; `private`, `revision` (a branch), `message`, `token`.

        Returns:
            The address of the repository.

        Raises:
            PermissionError: if the token does not allow it.
            ConnectionError: if the Hub cannot be reached.
        """
        from .hub import push_to_hub

        return push_to_hub(self, repo_id, **options)

    def compile_blocks(self, **options: Any) -> None:
        """Run the transformer blocks through `torch.compile`, in place.

        Equal blocks share one compilation, which takes a minute or so at the first call of each
        input size. Worth it for many photos on a GPU.

        Args:
            options: passed to `torch.nn.Module.compile`.
        """
        for block in (*self.enc_blocks, *self.dec_blocks, *self.dec_blocks2):
            block.compile(**options)

    def encode(self, images: Tensor, true_shape: Tensor | None = None) -> EncodedImages:
        """Encode images, once for all the pairs they are part of.

        Args:
            images: `(B, 3, H, W)` in [-1, 1], sides multiples of the patch size.
            true_shape: `(B, 2)` int (height, width) of the upright images when some are stored
                with rows and columns exchanged, else None. Keep it on the CPU.

        Returns:
            Tokens and what else the decoder needs.

        Raises:
            ValueError: if a side is not a multiple of the patch size, or `true_shape` does not
                fit the stored size.
        """
        height, width = images.shape[-2:]
        rows, columns = self.patch_embed.grid(images)
        if self._goes_one_by_one(images, rows * columns):
            shapes = [None] * len(images) if true_shape is None else true_shape.split(1)
            parts = zip(images.split(1), shapes, strict=True)
            return EncodedImages.cat([self.encode(image, shape) for image, shape in parts])
        transposed = transposed_rows(true_shape, height, width)
        if transposed is not None:
            transposed = transposed.to(images.device)
        tokens, positions = self.patch_embed(images, transposed)
        if self.config.coordinate_features:
            tokens = tokens + self._coordinate_tokens(rows, columns, transposed, images.device)
        if self.config.rope_reference_grid is not None:
            positions = positions * min(1.0, self.config.rope_reference_grid / max(rows, columns))
        tables = self._tables(positions, self.config.encoder_dim // self.config.encoder_heads)
        for block in self.enc_blocks:
            tokens = block(tokens, tables)
        return EncodedImages(
            tokens=self.enc_norm(tokens),
            positions=positions,
            image_size=(height, width),
            local=self._local_maps(images, transposed),
            transposed=transposed,
        )

    def decode(self, encoded1: EncodedImages, encoded2: EncodedImages) -> PairPrediction:
        """Predict both views of each pair in the first camera's frame.

        Args:
            encoded1: the first images, B of them.
            encoded2: the second images, as many; their size may differ.

        Returns:
            Dense maps at the stored sizes. Rows stored transposed come back transposed; their 3D
            coordinates are those of the upright image.

        Raises:
            ValueError: if the batches differ in length.
        """
        if len(encoded1) != len(encoded2):
            raise ValueError(
                f"decode needs as many first as second images, got {len(encoded1)} and "
                f"{len(encoded2)}; use EncodedImages.select to repeat one"
            )
        if self._goes_one_by_one(encoded1.tokens, encoded1.tokens.shape[1]):
            pairs = [(encoded1.select([i]), encoded2.select([i])) for i in range(len(encoded1))]
            return PairPrediction.cat([self.decode(first, second) for first, second in pairs])
        layers1, layers2 = self._decoder_layers(encoded1, encoded2, layers_read(self.config))
        view1 = self._read_out(self.downstream_head1, layers1, encoded1)
        layers1.clear()  # not kept while the other head runs
        return PairPrediction(view1, self._read_out(self.downstream_head2, layers2, encoded2))

    def decode_symmetric(
        self, encoded1: EncodedImages, encoded2: EncodedImages
    ) -> tuple[PairPrediction, PairPrediction]:
        """Decode each pair in both orders.

        Both orders share a batch when the sizes agree, except for large inputs on a processor,
        where a larger batch is no faster and needs twice the memory.

        Args:
            encoded1: the first images.
            encoded2: the second images.

        Returns:
            The pairs (1, 2) in camera 1's frame, and the pairs (2, 1) in camera 2's frame.
        """
        size = encoded1.tokens.shape[1]
        together = encoded1.image_size == encoded2.image_size
        if not together or self._goes_one_by_one(encoded1.tokens, size, 2 * len(encoded1)):
            return self.decode(encoded1, encoded2), self.decode(encoded2, encoded1)
        both = self.decode(
            EncodedImages.cat((encoded1, encoded2)), EncodedImages.cat((encoded2, encoded1))
        )
        count = len(encoded1)
        return both.select(slice(None, count)), both.select(slice(count, None))

    def forward(
        self,
        images1: Tensor,
        images2: Tensor,
        true_shape1: Tensor | None = None,
        true_shape2: Tensor | None = None,
    ) -> PairPrediction:
        """Encode and decode pairs of images.

        Args:
            images1: `(B, 3, H, W)` in [-1, 1].
            images2: `(B, 3, H2, W2)` in [-1, 1].
            true_shape1: see `encode`; give both or none.
            true_shape2: see `encode`.

        Returns:
            Both pointmaps in the frame of the first camera.
        """
        if images1.shape != images2.shape:
            return self.decode(self.encode(images1, true_shape1), self.encode(images2, true_shape2))
        if (true_shape1 is None) != (true_shape2 is None):
            raise ValueError("give both true_shape1 and true_shape2, or none")
        shapes = None
        if true_shape1 is not None and true_shape2 is not None:
            shapes = torch.cat((true_shape1, true_shape2))
        return self.decode(*self.encode(torch.cat((images1, images2)), shapes).halves())

    def _goes_one_by_one(self, batch: Tensor, tokens: int, count: int | None = None) -> bool:
        """Tell whether a larger batch would only cost memory: large inputs on a processor."""
        count = len(batch) if count is None else count
        large = tokens * self.config.encoder_dim > _LARGE_INPUT
        return count > 1 and large and batch.device.type == "cpu" and runs_eagerly()

    def _tables(self, positions: Tensor, head_dim: int) -> RotaryTables:
        return rotary_tables(positions, head_dim, self.config.rope_base)

    def _coordinate_tokens(
        self, rows: int, columns: int, transposed: Tensor | None, device: torch.device
    ) -> Tensor:
        tokens = self.coordinate_embed(coordinate_features(rows, columns, device))  # (N, E)
        if transposed is None:
            return tokens
        turned = self.coordinate_embed(coordinate_features(columns, rows, device))
        return torch.where(transposed[:, None, None], turned, tokens)  # (B, N, E)

    def _local_maps(self, images: Tensor, transposed: Tensor | None) -> tuple[Tensor, ...]:
        if self.config.descriptor_head != "local":
            return ()
        maps = self.local_pyramid(images)
        if transposed is None:
            return maps
        turned = self.local_pyramid(images.transpose(-1, -2))
        rows = transposed[:, None, None, None]
        return tuple(
            torch.where(rows, other.transpose(-1, -2), level)
            for level, other in zip(maps, turned, strict=True)
        )

    def _decoder_layers(
        self, encoded1: EncodedImages, encoded2: EncodedImages, keep: Container[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Run both decoders level by level; each reads the other's previous level.

        Args:
            encoded1: the first images.
            encoded2: the second images.
            keep: levels to return.

        Returns:
            Per view the kept levels: 0 is the encoder output (width E), then come the decoder
            outputs (width D), of which only the last is normalised.
        """
        head_dim = self.config.decoder_dim // self.config.decoder_heads
        tables1 = self._tables(encoded1.positions, head_dim)
        tables2 = self._tables(encoded2.positions, head_dim)
        x1, x2 = self.decoder_embed(encoded1.tokens), self.decoder_embed(encoded2.tokens)
        layers1, layers2 = {0: encoded1.tokens}, {0: encoded2.tokens}
        blocks = zip(self.dec_blocks, self.dec_blocks2, strict=True)
        for level, (block1, block2) in enumerate(blocks, start=1):
            x1, x2 = block1(x1, x2, tables1, tables2), block2(x2, x1, tables2, tables1)
            if level in keep:
                layers1[level], layers2[level] = x1, x2
        last = self.config.decoder_depth
        layers1[last], layers2[last] = self.dec_norm(x1), self.dec_norm(x2)
        return layers1, layers2

    def _read_out(
        self, head: ViewHead, layers: dict[int, Tensor], encoded: EncodedImages
    ) -> ViewPrediction:
        """Run a head; landscape and transposed rows run apart, each upright, and are rejoined."""
        height, width = encoded.image_size
        p = self.config.patch_size
        grid = (height // p, width // p)
        transposed = encoded.transposed
        if transposed is None:
            return self._predict(head, layers, grid, encoded.local)
        plain_rows, turned_rows = (torch.nonzero(rows)[:, 0] for rows in (~transposed, transposed))
        parts = []
        if len(plain_rows):
            local = tuple(level[plain_rows] for level in encoded.local)
            parts.append(self._predict(head, _rows(layers, plain_rows), grid, local))
        if len(turned_rows):
            local = tuple(level[turned_rows].transpose(-1, -2) for level in encoded.local)
            turned = self._predict(head, _rows(layers, turned_rows), (grid[1], grid[0]), local)
            parts.append(turned.transpose())
        order = torch.cat((plain_rows, turned_rows)).argsort()
        return ViewPrediction.cat(parts).select(order)

    def _predict(
        self,
        head: ViewHead,
        layers: dict[int, Tensor],
        grid: tuple[int, int],
        local: tuple[Tensor, ...],
    ) -> ViewPrediction:
        """Run a head on upright images of one size and apply the activations, in float32."""
        decoder = self.local_decoder if self.config.descriptor_head == "local" else None
        raw = head(layers, grid, local, decoder)
        with full_precision(raw.points.device):
            return self._activate(raw)

    def _activate(self, raw: RawMaps) -> ViewPrediction:
        config = self.config
        points, logit = _split_last(raw.points, 3)
        pointmap = activate_points(points, config.point_mode)
        if config.confidence is None:
            confidence = torch.ones_like(pointmap[..., 0])
        else:
            confidence = activate_confidence(logit, config.confidence)
        if raw.descriptors is None:
            return ViewPrediction(pointmap, confidence)
        descriptors, logit = _split_last(raw.descriptors, config.descriptor_dim)
        descriptor_confidence = confidence
        mode = config.descriptor_mode
        if config.two_confidences and mode is not None:
            descriptor_confidence = activate_confidence(logit, mode)
        descriptors = activate_descriptors(descriptors)
        return ViewPrediction(pointmap, confidence, descriptors, descriptor_confidence)


def _rows(layers: dict[int, Tensor], rows: Tensor) -> dict[int, Tensor]:
    return {level: x[rows] for level, x in layers.items()}


def _split_last(maps: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Split off what follows `channels`; unlike two slices, one pass in the backward."""
    first, rest = maps.split([channels, maps.shape[-1] - channels], dim=-1)
    return first, rest.flatten(-2)


NUM_COORDINATE_FEATURES = 10


def coordinate_features(rows: int, columns: int, device: torch.device) -> Tensor:
    """Describe where each patch lies in its image by ten smooth functions.

    RoPE sees differences of positions only; these tell the network the absolute place, and with
    it the direction that a token looks in.

    Args:
        rows: height of the patch grid.
        columns: width of the patch grid.
        device: where the result lives.

    Returns:
        `(rows * columns, 10)` float32, for (x, y) the patch centre relative to the image centre
        over half the long side.
    """
    x, y = normalised_coordinates(rows, columns, device).flatten(0, 1).unbind(-1)
    sin_x, sin_y = torch.sin(torch.pi * x), torch.sin(torch.pi * y)
    cos_x, cos_y = torch.cos(torch.pi * x), torch.cos(torch.pi * y)
    return torch.stack(
        (x, y, x * y, x * x, y * y, sin_x, sin_y, cos_x, cos_y, sin_x * sin_y), dim=-1
    )
