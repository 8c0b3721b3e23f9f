"""The page beside exported ONNX files: what they take, what they give, how to run them."""

from __future__ import annotations

from .config import ModelConfig

README_FILE = "README.md"

_TEMPLATE = """\
# {name}, as ONNX

Two files, float32. Batch, height and width are free; sides are multiples of {patch}, at least
{smallest} pixels. The two images of a pair may differ in size.

Licence of the weights: {licence}.

| file | takes | gives |
|---|---|---|
| `encoder.onnx` | `image` (B, 3, H, W): RGB, `(value / 255 - 0.5) / 0.5`, upright | {encoded} |
| `decoder.onnx` | these of both images, with `_view1`, `_view2` | {outputs}, likewise named |

* `pointmap` (B, H, W, 3): a 3D point for every pixel. BOTH pointmaps are in the camera frame of
  view 1 (x right, y down, z forward). Decode (b, a) as well for the points in the frame of b.
* `confidence` (B, H, W): higher is surer.
{descriptors}
Encode each image once, then decode any pairs of them. Where a file `*.onnx.data` lies beside an
`.onnx` file, it holds the weights and must stay there.

```python
import numpy as np
import onnxruntime

encoder = onnxruntime.InferenceSession("encoder.onnx")
decoder = onnxruntime.InferenceSession("decoder.onnx")
names = [output.name for output in encoder.get_outputs()]


def encode(rgb):  # (H, W, 3) uint8, sides multiples of {patch}
    image = (rgb.astype(np.float32) / 255 - 0.5) / 0.5
    return dict(zip(names, encoder.run(names, {{"image": image.transpose(2, 0, 1)[None]}})))


def decode(first, second):
    inputs = {{f"{{name}}_view1": array for name, array in first.items()}}
    inputs |= {{f"{{name}}_view2": array for name, array in second.items()}}
    outputs = [output.name for output in decoder.get_outputs()]
    return dict(zip(outputs, decoder.run(outputs, inputs)))
```

`weav3r.models.onnx_runtime.OnnxTwoViewModel` is the same with checks. The metadata of both files
holds the configuration, the licence, the input's normalisation and the frame.
"""
_DESCRIPTORS = """\
* `descriptors` (B, H, W, {dim}) of unit norm, to match pixels by their dot product, and
  `descriptor_confidence` (B, H, W).
"""


def onnx_readme(config: ModelConfig, licence: str, encoded: list[str], outputs: list[str]) -> str:
    """Write the page.

    Args:
        config: of the network.
        licence: of its weights.
        encoded: names of the encoder's outputs.
        outputs: names of the decoder's outputs, without the view.
    """
    dim = config.descriptor_dim
    return _TEMPLATE.format(
        name=config.name,
        patch=config.patch_size,
        smallest=2 * config.patch_size,
        licence=licence,
        encoded=", ".join(f"`{name}`" for name in encoded),
        outputs=", ".join(f"`{name}`" for name in outputs),
        descriptors=_DESCRIPTORS.format(dim=dim) if dim else "",
    )
