"""Which packages hold licence-clear photographs and materials, and which files of them to take.

The catalogue only selects; the licence of every selected file is still looked up in the package by
`texture_sources`. Debian packages come in the version of the user's release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .texture_crops import Category


@dataclass(frozen=True)
class Selection:
    """Images below one folder of a package that are worth cutting up.

    Attributes:
        folder: inside the unpacked package; images are searched below it.
        category: decides the crop limits.
        max_crops: per image.
        include: regular expression that a path below `folder` must match somewhere.
        exclude: regular expression that it must not match.
        copyright_prefix: put before the path below `folder` to get its name in debian/copyright.
        licence: given for selections whose images have a licence of their own, stated in the
            package's documentation but in no machine-readable file; tier A.
        author: used when the package's files name none.
    """

    folder: str
    category: Category
    max_crops: int
    include: str = ""
    exclude: str = r"(?!)"
    copyright_prefix: str = ""
    licence: str | None = None
    author: str = ""


@dataclass(frozen=True)
class TextureSource:
    """A package and what to take from it.

    Attributes:
        name: package name; for wheels a requirement with a pinned version.
        kind: which client fetches it.
        megabytes: size of the download.
        selections: what to take.
        archives: regular expression of archives inside the package; each is unpacked at
            ``inner/<file name without suffix>``.
        pip_arguments: more options for pip.
    """

    name: str
    kind: Literal["wheel", "deb"]
    megabytes: int
    selections: tuple[Selection, ...]
    archives: str = r"(?!)"
    pip_arguments: tuple[str, ...] = ()


_MISCELLANEOUS_SKIMAGE = "brick|grass|gravel|coffee|chelsea|rocket"
_OPENCV_PHOTOS = (
    r"^(data/(apple|baboon|blox|board|building|butterfly|fruits|home|orange|smarties|squirrel_cls"
    r"|starry_night|stuff|sudoku|cards|imageTextN)|dnn/squirrel_cls|shape/data/1)\.(jpg|png)$"
)

SOURCES: tuple[TextureSource, ...] = (
    TextureSource(
        name="endless-sky-high-dpi",
        kind="deb",
        megabytes=136,
        selections=(
            Selection(
                "usr/share/games/endless-sky/plugins/endless-sky-high-dpi/images/land",
                "photo",
                max_crops=10,
                copyright_prefix="images/land/",
            ),
            Selection(
                "usr/share/games/endless-sky/plugins/endless-sky-high-dpi/images/scene",
                "photo",
                max_crops=4,
                exclude=r"loc",
                copyright_prefix="images/scene/",
            ),
        ),
    ),
    TextureSource(
        name="lomiri-wallpapers-16.04",
        kind="deb",
        megabytes=16,
        selections=(
            Selection("usr/share/backgrounds", "photo", max_crops=40, copyright_prefix="16.04/"),
        ),
    ),
    TextureSource(
        name="libjxl-testdata",
        kind="deb",
        megabytes=56,
        selections=(
            Selection(
                "usr/share/libjxl-testdata",
                "photo",
                max_crops=20,
                include=r"^jxl/(flower/flower|hdr_room)\.png$"
                r"|^external/raw\.pixls/.*srgb8.*\.png$"
                r"|^external/wesaturate/500px/.*srgb8\.png$",
            ),
        ),
    ),
    TextureSource(
        name="opencv-doc",
        kind="deb",
        megabytes=96,
        selections=(
            Selection(
                "usr/share/doc/opencv-doc/examples",
                "photo",
                max_crops=8,
                include=_OPENCV_PHOTOS,
                copyright_prefix="samples/",
            ),
            Selection(
                "usr/share/doc/opencv-doc/examples",
                "signage",
                max_crops=5,
                include=r"^text/scenetext0\d\.jpg$",
                copyright_prefix="samples/",
            ),
        ),
    ),
    TextureSource(
        name="scikit-image==0.17.2",  # the last wheels that hold the photographs
        kind="wheel",
        megabytes=12,
        selections=(
            Selection(
                "skimage/data",
                "photo",
                max_crops=5,
                include=rf"^({_MISCELLANEOUS_SKIMAGE})\.(png|jpg)$",
                licence="CC0-1.0",
            ),
            Selection(
                "skimage/data",
                "photo",
                max_crops=5,
                include=r"^(hubble_deep_field|moon|coins)\.(png|jpg)$",
                licence="public-domain",
            ),
            Selection("skimage/data", "photo", max_crops=4, include=r"^page\.png$"),
        ),
        pip_arguments=("--platform", "manylinux1_x86_64", "--python-version", "3.8"),
    ),
    TextureSource(
        name="metaworld==3.1.1",
        kind="wheel",
        megabytes=37,
        selections=(
            Selection("metaworld/assets/textures", "material", max_crops=4),
            Selection("metaworld/assets/scene/textures", "material", max_crops=4),
        ),
        pip_arguments=("--python-version", "3.11"),
    ),
    TextureSource(
        name="miniworld==2.1.0",
        kind="wheel",
        megabytes=39,
        selections=(
            Selection("miniworld/textures", "material", max_crops=4, exclude="^(chars|portraits)/"),
        ),
        pip_arguments=("--python-version", "3.11"),
    ),
    TextureSource(
        name="robosuite==1.5.2",
        kind="wheel",
        megabytes=157,
        selections=(Selection("robosuite/models/assets/textures", "material", max_crops=4),),
        pip_arguments=("--python-version", "3.11"),
    ),
    TextureSource(
        name="sweethome3d-furniture",
        kind="deb",
        megabytes=120,
        archives=r"^usr/share/sweethome3d/furniture/.*\.sh3f$",
        selections=tuple(
            Selection(f"inner/{library}", "material", max_crops=3, copyright_prefix=f"{library}/")
            for library in ("BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Scopia")
        ),
    ),
    TextureSource(
        name="trigger-rally-data",
        kind="deb",
        megabytes=119,
        archives=r"^usr/share/games/trigger-rally/data\.zip$",
        selections=(
            Selection(
                "inner/data/textures/veg",
                "foliage",
                max_crops=1,
                copyright_prefix="data/data.zip/textures/veg/",
            ),
            Selection(
                "inner/data/textures",
                "signage",
                max_crops=1,
                exclude=r"^(glossy|plain|sky|veg)/|/(glossy|plain|sky|veg)/",
                copyright_prefix="data/data.zip/textures/",
            ),
        ),
    ),
    TextureSource(
        name="ufoai-textures",
        kind="deb",
        megabytes=336,
        archives=r"^usr/share/games/ufoai/base/.*\.pk3$",
        selections=(
            Selection(
                "inner/0textures", "signage", 4, "art_|carpet|sign", copyright_prefix="base/"
            ),
            Selection(
                "inner/0textures",
                "material",
                4,
                exclude="art_|carpet|sign",
                copyright_prefix="base/",
            ),
        ),
    ),
    TextureSource(
        name="supertuxkart-data",
        kind="deb",
        megabytes=628,
        selections=(Selection("usr/share/games/supertuxkart", "material", max_crops=4),),
    ),
)
