"""Recipes of a training run: frozen dataclasses, read from YAML, checked key by key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..datasets.procedural.switches import Feature

Config = TypeVar("Config")
_PACKAGED = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class OverlapStage:
    """One stage of the overlap curriculum."""

    until_step: int | None = None  # last step of the stage, exclusive; None = to the end
    overlap: tuple[float, float] = (0.1, 0.95)  # share of view 1 that view 2 sees, as drawn


@dataclass(frozen=True)
class DatasetConfig:
    """A data set on disk, or the procedural generator, as a part of a mixture."""

    path: str = "procedural"  # folder in any layout that is read, or "procedural"
    weight: float = 1.0  # share of the scenes, relative to the other parts
    train: str | None = None  # split to train on; None: "train", or all of a set without splits
    held_out: str | None = None  # split to validate on; None: "val", else "test", else all


@dataclass(frozen=True)
class DataConfig:
    """Which scenes a step draws and which pairs of their views it learns from."""

    sizes: tuple[tuple[int, int], ...] = ((96, 128),)  # (height, width), one is drawn per step
    scenes: int = 4  # scenes per batch
    micro_batches: int | None = None  # batches of a step, over all processes; None: one for each
    views: int = 3  # views per scene, each encoded once
    pairs_per_scene: int = 3  # unordered pairs decoded per scene, at most
    both_directions: bool = True  # decode (i, j) and (j, i); False: one of them, at random
    min_overlap: float = 0.1  # pairs below this covisibility (worse direction) are left out
    correspondences: int = 1024  # ground-truth matches drawn per ordered pair
    curriculum: tuple[OverlapStage, ...] = (OverlapStage(),)
    datasets: tuple[DatasetConfig, ...] = ()  # mixed by weight; none = the procedural generator
    epoch_scenes: int = 10_000  # scenes after which a mixture of data sets is shuffled anew
    textures: str | None = None  # folder or archive of textures; None = the default bank
    features: tuple[Feature, ...] = ()  # of generated scenes; none = the plain ones
    panoramas: str | None = None  # folder of equirectangular photos; None = painted ones
    shadows: bool = True
    kernel: Literal["auto", "torch", "numba", "triton"] = "auto"
    device: Literal["auto", "cpu"] = "auto"  # where scenes are rendered; auto = the model's device
    workers: int = 0  # background processes that render; 0 = inline
    prefetch: int = 2  # batches each worker keeps ready
    mirror: float = 0.5  # probability of a left-right mirrored world, per step
    channel_permutation: float = 0.2  # probability of permuted colour channels, per step
    color_jitter: float = 0.2  # strength of per-view gain, offset and tint
    max_scenes: int | None = None  # cycle through this many scenes (to overfit); None = endless


@dataclass(frozen=True)
class LossConfig:
    """Weights and variants of the losses."""

    normalisation: Literal["avg_dis", "?avg_dis", "median_dis", "sqrt_dis", "avg_log1p"] = "avg_dis"
    log_points: bool = False  # compare points re-lengthened to log(1 + length)
    clip_median: float | None = 20.0  # ignore points farther than this times the median distance
    confidence_alpha: float = 0.2  # weight of -log(confidence)
    confidence_from_step: int = 0  # the confidence counts as 1 before this step
    regression_weight: float = 1.0
    matching_weight: float = 1.0
    temperature: float = 0.07  # of InfoNCE (at the start, if learnable)
    learnable_temperature: bool = True
    min_temperature: float = 0.03
    descriptor_confidence: Literal["none", "joint", "detached"] = "detached"
    descriptor_confidence_alpha: float = 2.0  # weight of -log(descriptor confidence)
    descriptor_confidence_weight: float = 0.1  # of the confidence term in "detached" mode


@dataclass(frozen=True)
class CompletionConfig:
    """Cross-view completion (CroCo); only recipes with `task: completion` read it."""

    mask_ratio: float = 0.9  # share of the patches of view 1 that is hidden
    normalise_target: bool = True  # compare patches of zero mean and unit variance
    crop: int | None = 224  # side of the random square crops, pixels; None = whole images
    jitter: float = 0.4  # brightness, contrast and saturation factors within 1 plus or minus this
    photos: str | None = None  # folder of photo pairs (`read_image_pairs`); None = scenes


@dataclass(frozen=True)
class AdaptConfig:
    """Which weights of a two-view network change; fine-tuning rarely needs all."""

    train: Literal["all", "after_encoder", "heads", "lora"] = "all"
    lora_rank: int = 16
    lora_alpha: float = 16.0  # the corrections are scaled by alpha / rank


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, schedule, clipping and averaging."""

    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05  # on matrices and kernels only
    schedule: Literal["stable", "cosine"] = "stable"  # cosine: from warm-up to the recipe's steps
    warmup_steps: int = 300
    decay_fraction: float = 0.25  # of a run with decay=True: the last part falls linearly
    final_factor: float = 0.01  # learning rate at the end of the decay, relative to the peak
    clip_norm: float | None = 1.0  # largest norm of the gradient; None = no limit
    max_skipped: int = 50  # consecutive non-finite gradients before the run gives up
    ema_decay: float = 0.999  # of the averaged weights, reached gradually
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on GPUs


@dataclass(frozen=True)
class ValidationConfig:
    """Fixed fresh scenes, never trained on."""

    seed: int = 777_000_001
    scenes: int = 16  # pairs per size
    every_steps: int | None = None
    every_minutes: float | None = 15.0
    queries: int = 512  # covisible pixels per pair whose match is looked up
    overlap: tuple[float, float] = (0.2, 0.9)
    mean_map_scenes: int = 32  # scenes averaged into the mean-map baseline, per size
    sizes: tuple[tuple[int, int], ...] | None = None  # None = the sizes trained on


@dataclass(frozen=True)
class Recipe:
    """A whole training run."""

    name: str = "unnamed"
    task: Literal["pairs", "completion"] = "pairs"  # two-view network, or CroCo pre-training
    model: str = "weav3r-small"  # a preset
    model_overrides: dict[str, Any] = field(default_factory=dict)  # fields of ModelConfig
    init: str | None = None  # weights to start from: what load_model takes, or a CroCo file
    init_partly: bool = False  # keep `model`; take the tensors of init that fit, the rest is fresh
    seed: int = 0
    steps: int | None = None  # total number of steps; None = until the minutes are over
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint_minutes: float = 5.0
    log_every: int = 10  # steps between log lines
    tensorboard: bool = True
    compile: bool = False  # torch.compile the network (GPUs with fixed sizes)
    shard: bool = False  # split weights and moments over the processes (FSDP), for large networks


def load_recipe(
    name_or_path: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: a packaged recipe ("small-cpu") or the path of a YAML file.
        overrides: `{"optimizer.learning_rate": 1e-3}` or `["optimizer.learning_rate=1e-3"]`;
            text values are read as YAML.

    Raises:
        FileNotFoundError: if there is no such recipe; the message lists the packaged ones.
        ValueError: if a key is unknown or a value has the wrong type; the message names it.
    """
    data = _read_yaml(_recipe_path(name_or_path))
    for key, value in _override_items(overrides):
        _set_nested(data, key, value)
    return recipe_from_dict(data)


def recipe_names() -> list[str]:
    """List the packaged recipes."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yaml"))


def recipe_from_dict(data: Mapping[str, Any]) -> Recipe:
    """Build a recipe from plain data, checking every key and type."""
    return _build(Recipe, data, "")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return plain data (dicts, lists, numbers, strings) that `recipe_from_dict` accepts."""
    return _plain(dataclasses.asdict(recipe))


def _recipe_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise FileNotFoundError(f"no recipe file {path}; packaged recipes: {recipe_names()}")
        return path
    if str(name_or_path) not in recipe_names():
        raise FileNotFoundError(
            f"no recipe {str(name_or_path)!r}; packaged recipes: {recipe_names()}, or give a .yaml"
        )
    return _PACKAGED / f"{name_or_path}.yaml"


def _read_yaml(path: Path) -> dict[str, Any]:
    yaml = _require_yaml()
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a mapping of settings, got {type(data).__name__}")
    return data


def _require_yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("weav3r.train needs PyYAML: pip install 'weav3r[train]'") from error
    return yaml


def _override_items(overrides: Mapping[str, Any] | Sequence[str]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    items = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"an override looks like key=value, got {text!r}")
        items.append((key.strip(), _require_yaml().safe_load(value)))
    return items


def _set_nested(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ValueError(f"override {key!r}: {parent!r} is not a group of settings")
    data[last] = value


def _build(kind: type[Config], data: Any, where: str) -> Config:
    """Fill a config dataclass from plain data; `where` is the dotted path for messages."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'the recipe'} must be a group of settings, got {data!r}")
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in data:
        if key not in names:
            raise ValueError(
                f"unknown setting {_join(where, key)!r}; expected one of: {', '.join(names)}"
            )
    hints = typing.get_type_hints(kind)
    return kind(**{k: _convert(hints[k], v, _join(where, k)) for k, v in data.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"{where} must be one of {', '.join(map(repr, arguments))}, got {value!r}")
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-4 as text
        except ValueError:
            pass
    elif hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    elif hint in (bool, str) and isinstance(value, hint):
        return value
    raise ValueError(f"{where} must be {_type_name(hint)}, got {value!r}")


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where} must be a list, got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        if not value and arguments[0] not in (DatasetConfig, Feature):
            raise ValueError(f"{where} must not be empty")
        return tuple(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(arguments):
        raise ValueError(f"{where} must have {len(arguments)} entries, got {value!r}")
    pairs = zip(arguments, value, strict=True)
    return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(pairs))


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, "a group of settings")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
