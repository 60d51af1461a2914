"""Generation of the demo data set: handwritten digits on cards in COCO's format, byte for byte reproducible."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lad.datasets.digits_scenes import IMAGE_SIDE, SPLITS, Scene, Sources, make_scenes

from PIL import Image

DIGIT_CLASSES = tuple("0123456789")
MANIFEST = "manifest.json"

_FORMAT = 1  # count up whenever the same parameters come to give other bytes
_INFO = {
    "description": "Handwritten digits on cards in front of photographs",
    "version": str(_FORMAT),
    "sources": [
        "Digits: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (test set), 1998, UCI Machine "
        "Learning Repository, https://archive.ics.uci.edu/dataset/80, as in sklearn.datasets.load_digits",
        "china.jpg: danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035/, CC BY 2.0, "
        "as in sklearn.datasets.load_sample_images; cropped and drawn upon",
        "flower.jpg: vultilion, https://www.flickr.com/photos/vultilion/6056698931/, CC BY 2.0, "
        "as in sklearn.datasets.load_sample_images; cropped and drawn upon",
    ],
}
_LICENSES = [
    {
        "id": 1,
        "name": "Photographs: Creative Commons Attribution 2.0",
        "url": "https://creativecommons.org/licenses/by/2.0/",
    },
    {
        "id": 2,
        "name": "Digits: terms of the UCI Machine Learning Repository",
        "url": "https://archive.ics.uci.edu/dataset/80",
    },
]


@dataclass(frozen=True)
class DigitsParameters:
    """Parameters that determine the bytes of the data set.

    Attributes:
        images: how many training images.
        val_images: how many validation images.
        size: side of the images, px.
        seed: of everything random, not negative.
        imbalance: how much oftener the first class is drawn for training images than the last; in between it falls
            exponentially, as in the long-tailed CIFAR of Cui et al. (CVPR 2019, arXiv 1901.05555). Validation images
            stay balanced.
    """

    images: int = 800
    val_images: int = 200
    size: int = 128
    seed: int = 0
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        if self.images < 1 or self.val_images < 1:
            raise ValueError("both splits need at least one image")
        if not IMAGE_SIDE[0] <= self.size <= IMAGE_SIDE[1]:
            raise ValueError(f"size must be {IMAGE_SIDE[0]} to {IMAGE_SIDE[1]} px, not {self.size}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        if not self.imbalance >= 1 or not math.isfinite(self.imbalance):
            raise ValueError(f"imbalance must be at least 1, not {self.imbalance}")

    def count(self, split: str) -> int:
        """Return the number of images of ``'train'`` or ``'val'``."""
        return {"train": self.images, "val": self.val_images}[split]

    def as_dict(self) -> dict[str, Any]:
        """The parameters by name, without an imbalance where there is none: older data sets stay as they are."""
        parameters = asdict(self)
        if self.imbalance == 1:
            del parameters["imbalance"]
        return parameters


def make_digits(
    out: str | os.PathLike[str],
    parameters: DigitsParameters | None = None,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write the data set: ``annotations/{train,val}.json``, ``images/{train,val}/*.png`` and a manifest.

    It appears complete or not at all: it is made in a folder beside ``out``, which is then renamed.

    Args:
        out: folder to make.
        parameters: what to make; by default 800 + 200 images of 128 px.
        force: replace ``out`` if it holds anything else.
        progress: called with (images done, images in all) after every image.

    Returns:
        Whether it was made; False if ``out`` was there already, complete and of the same parameters.

    Raises:
        FileExistsError: ``out`` holds something else and ``force`` is not given, or must not be replaced.
    """
    parameters = parameters or DigitsParameters()
    out = Path(out).resolve()  # where `out` is a link, what it points at is made, and on the same disk
    if is_complete(out, parameters):
        return False
    _check_replaceable(out, force)

    out.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (out.with_name(f".{out.name}.{what}-{os.getpid()}") for what in ("partial", "old"))
    try:
        _write(partial, parameters, progress)
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return True


def is_complete(out: str | os.PathLike[str], parameters: DigitsParameters) -> bool:
    """Return whether ``out`` contains exactly the bytes of this data set; other files are ignored."""
    out = Path(out)
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        if manifest["format"] != _FORMAT or manifest["parameters"] != parameters.as_dict():
            return False
        return all(_sha256(out / name) == sha256 for name, sha256 in manifest["sha256"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_replaceable(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is not a folder")
    if not force:
        raise FileExistsError(f"{out} exists and is not this data set (--force replaces it)")
    # A slip of the finger (`--out . --force`) must not cost anybody's work.
    if any(place == out or out in place.parents for place in (Path.cwd(), Path.home().resolve())):
        raise FileExistsError(f"{out} holds the working or home folder and is not replaced")


def _write(folder: Path, parameters: DigitsParameters, progress: Callable[[int, int], None] | None) -> None:
    sources = Sources.load()
    done, total = 0, sum(parameters.count(split) for split in SPLITS)
    (folder / "annotations").mkdir(parents=True)
    for split in SPLITS:
        images = folder / "images" / split
        images.mkdir(parents=True)
        coco = _empty_coco(split, parameters)
        imbalance = parameters.imbalance if split == "train" else 1.0
        scenes = make_scenes(
            sources, split, parameters.count(split), parameters.size, parameters.seed, imbalance
        )
        for image_id, scene in enumerate(scenes, start=1):
            file_name = f"{image_id:06d}.png"
            Image.fromarray(scene.pixels).save(images / file_name)
            _add(coco, scene, image_id, file_name)
            done += 1
            if progress:
                progress(done, total)
        _dump(coco, folder / "annotations" / f"{split}.json")
    _dump(
        {"format": _FORMAT, "parameters": parameters.as_dict(), "sha256": _hashes(folder)},
        folder / MANIFEST,
        indent=1,
    )


def _empty_coco(split: str, parameters: DigitsParameters) -> dict[str, Any]:
    return {
        "info": {**_INFO, "split": split, "parameters": parameters.as_dict()},
        "licenses": _LICENSES,
        "images": [],
        "annotations": [],
        # COCO counts from 1, and so do tools that keep 0 for the background.
        "categories": [
            {"id": label + 1, "name": name, "supercategory": "digit"}
            for label, name in enumerate(DIGIT_CLASSES)
        ],
    }


def _add(coco: dict[str, Any], scene: Scene, image_id: int, file_name: str) -> None:
    height, width = scene.pixels.shape[:2]
    coco["images"].append(
        {
            "id": image_id,
            "file_name": file_name,
            "width": width,
            "height": height,
            "license": 1,
            "photo": scene.photo,
            "crop": list(scene.crop),
            "flipped": scene.flipped,
        }
    )
    for card in scene.cards:
        coco["annotations"].append(
            {
                # From 1: pycocotools takes a match with annotation 0 for no match.
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": card.digit + 1,
                "bbox": list(card.bbox),
                "area": card.bbox[2] * card.bbox[3],
                "iscrowd": 0,
                "digit_index": card.digit_index,
            }
        )


def _dump(content: dict[str, Any], path: Path, indent: int | None = None) -> None:
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8", newline="\n")


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file by its path within the folder."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: _sha256(folder / name) for name in files}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
