"""Where weights come from and what may be done with them: provenance, notice, model card."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ._foreign import printable
from .config import ModelConfig

CARD_FILE = "README.md"
PUBLISHED_LICENCE = "CC BY-NC-SA 4.0"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provenance:
    """What a user must know about weights besides their shape. It travels with them.

    Attributes:
        licence: name of the licence, "" when nobody stated one.
        training_data: what they were trained on, in a sentence or more.
        metrics: measured values by name, e.g. {"toy set, AUC@5": "0.61"}.
        base_model: Hub id or name of the weights that training started from.
        description: one line.
    """

    licence: str = ""
    training_data: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    base_model: str = ""
    description: str = ""

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return bool(re.search(r"(?<![a-z])nc(?![a-z])|non-?commercial", self.licence.lower()))

    def derived(self, base_model: str) -> Provenance:
        """Describe weights whose training starts from these: the licence stays, metrics do not.

        Args:
            base_model: what to call these weights.
        """
        trained = f"Started from {base_model}. {self.training_data}".strip()
        return Provenance(self.licence, trained, base_model=base_model)

    def to_metadata(self) -> dict[str, str]:
        """Give text entries for the header of a safetensors file."""
        if self == Provenance():
            return {}
        return {"licence": self.licence, "provenance": json.dumps(asdict(self))}


# Said of the files that this package ships.
BUNDLED = Provenance(
    licence="Apache-2.0",
    training_data="Procedural scenes rendered while training; models/weights/DATASHEET.md lists "
    "the licence of every texture.",
    description="Small two-view network of the Weav3R project, trained from scratch.",
)


def find_provenance(
    metadata: Mapping[str, str], card: str | None = None, published: bool = False
) -> Provenance:
    """Collect what a checkpoint says about itself.

    Args:
        metadata: text entries of the weights file.
        card: text of the model card beside it, if any.
        published: whether it is in the layout of the published DUSt3R and MASt3R files, whose
            licence is assumed when it states none.

    Returns:
        The provenance; what nothing states stays empty.
    """
    stated = _from_metadata(metadata)
    front = _front_matter(card or "")
    licence = stated.get("licence") or metadata.get("licence") or metadata.get("license")
    licence = licence or front.get("license_name") or front.get("license")
    stated["licence"] = licence or (PUBLISHED_LICENCE if published else "")
    if not stated.get("base_model") and "base_model" in front:
        stated["base_model"] = front["base_model"]
    return Provenance(**stated)


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        data = json.loads(metadata.get("provenance", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    known = {f.name for f in fields(Provenance)} & set(data)
    result: dict[str, Any] = {name: str(data[name]) for name in known - {"metrics"}}
    if isinstance(data.get("metrics"), dict):
        result["metrics"] = {str(name): str(value) for name, value in data["metrics"].items()}
    return result


def _front_matter(card: str) -> dict[str, str]:
    """Read the one-line text entries of the YAML block that begins a model card."""
    lines = [line.rstrip() for line in card.lstrip().splitlines()]
    lines = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
    pairs = (re.match(r"(\w+):\s*(\S.*)$", line) for line in lines)
    return {pair[1]: pair[2].strip().strip("\"'") for pair in pairs if pair}


def warn_of_licence(origin: str, provenance: Provenance, config: ModelConfig) -> None:
    """Log a warning when weights may not be used commercially."""
    if not provenance.non_commercial:
        return
    more = " Its training sets add restrictions of their own: see its model card."
    logger.warning(
        "%s: licence %s, non-commercial use only.%s",
        printable(origin),
        printable(provenance.licence),
        more if "mast3r" in f"{origin} {config.name}".lower() else "",
    )


def model_card(
    title: str, config: ModelConfig, provenance: Provenance, parameters: int, sha256: str, load: str
) -> str:
    """Write the model card of a checkpoint folder, Markdown with a YAML block for the Hub.

    Args:
        title: heading.
        config: of the network.
        provenance: its licence, training data and metrics.
        parameters: their number.
        sha256: of the weights file.
        load: what to pass to `weav3r.load_model`.

    Returns:
        The text.
    """
    metrics = "".join(f"| {name} | {value} |\n" for name, value in provenance.metrics.items())
    table = "| measured | value |\n| --- | --- |\n" + metrics if metrics else "None stated.\n"
    settings = json.dumps(config.to_dict(), indent=2)
    return _CARD.format(
        front="\n".join(_yaml_lines(config, provenance)),
        title=title,
        description=provenance.description or "A two-view geometry network.",
        licence=_licence_text(provenance),
        training=provenance.training_data or "Not stated.",
        table=table,
        load=load,
        size="{}x{}".format(*config.image_size),
        descriptors="with" if config.descriptor_dim else "without",
        settings=settings,
        parameters=f"{parameters / 1e6:.1f} M",
        sha256=sha256,
    )


def _licence_text(provenance: Provenance) -> str:
    if not provenance.licence:
        return "Not stated. Ask the author before you use these weights."
    end = " Non-commercial use only." if provenance.non_commercial else ""
    return f"{provenance.licence}.{end}"


# Licences that the Hub knows by an identifier; the others are named in free text.
_HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
}  # fmt: skip


def _yaml_lines(config: ModelConfig, provenance: Provenance) -> list[str]:
    lines = []
    if provenance.licence:
        identifier = provenance.licence.lower().replace(" ", "-")
        if identifier in _HUB_LICENCES:
            lines.append(f"license: {identifier}")
        else:
            lines += ["license: other", f"license_name: {json.dumps(provenance.licence)}"]
    tags = ["pointmap", "3d-reconstruction", "stereo", *["matching"][: bool(config.descriptor_dim)]]
    lines += ["library_name: weav3r", "pipeline_tag: image-to-3d", "tags:"]
    lines += [f"- {tag}" for tag in tags]
    if provenance.base_model:
        lines.append(f"base_model: {json.dumps(provenance.base_model)}")
    return lines


_CARD = """---
{front}
---

# {title}

{description}

Two photos of one scene go in; pointmaps of both in the frame of the first camera come out, with
confidences, {descriptors} descriptors for matching.

## Licence

{licence}

## Training data

{training}

## Metrics

{table}
## How to use

```python
import weav3r

model = weav3r.load_model("{load}")
scene = weav3r.reconstruct("photos/", model=model)
```

## Configuration

{parameters} parameters; trained for images of {size} pixels (height x width).

```json
{settings}
```

## Limits

Made for photos of one static scene that overlap. Moving things, mirrors, glass, repeated structures
and views without overlap give wrong points; their confidence is a hint, not a guarantee. Lengths
are metric only where the training was.

## File

SHA-256 of `model.safetensors`: `{sha256}`
"""
