"""Find the images and annotations of a folder of data, in COCO's, YOLO's or Pascal VOC's layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lad.datasets.coco_file import read_coco
from lad.datasets.voc import convert_voc, voc_classes, voc_names
from lad.datasets.yolo import convert_yolo, read_yolo
from lad.errors import ConfigError, DataError, listed

#: Names of the splits in file and folder names.
SPLITS = dict(train=("train",), val=("val", "valid", "validation", "test"))


@dataclass(frozen=True)
class Split:
    """Files of the training or validation data.

    Attributes:
        annotations: COCO annotation file.
        images: Folder that its file names are in.
    """

    annotations: Path
    images: Path


@dataclass(frozen=True)
class Layout:
    """A folder of data.

    Attributes:
        kind: ``'COCO'``, ``'YOLO'`` or ``'VOC'``; the latter two are converted.
        train, val: Its splits.
    """

    kind: str
    train: Split
    val: Split


#: Writes a text to a file, and the file's folder.
Writer = Callable[[Path, str], object]


def write_text(file: Path, text: str) -> None:
    """Write a file, and its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def find_data(folder: Path, converted: Path, write: Writer = write_text) -> Layout:
    """Find the training and validation data of a folder.

    ======  ==========================================================================================================
    COCO    ``annotations/*train*.json``, ``annotations/*val*.json``, images wherever the file names lead to; Roboflow's
            ``train/_annotations.coco.json`` and ``valid/...``
    YOLO    ``data.yaml`` with ``names``, ``train`` and ``val``
    VOC     ``Annotations``, ``JPEGImages`` and ``ImageSets/Main/train.txt``, ``val.txt``
    ======  ==========================================================================================================

    Args:
        folder: The data.
        converted: Folder that converted annotations are written to, as ``train.json`` and ``val.json``.
        write: Writes them.

    Raises:
        ConfigError: the folder has none of these, or several files could be meant.
        DataError: annotations cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}.")
    if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        classes = voc_classes(folder)
        found = {
            split: (convert_voc(folder, voc_names(folder, split), classes), folder / "JPEGImages")
            for split in SPLITS
        }
        return _write(found, converted, "VOC", write)
    description = next(
        (file for file in map(folder.joinpath, ("data.yaml", "data.yml")) if file.is_file()), None
    )
    if description is not None:
        classes, folders = read_yolo(description)
        missing = [split for split in SPLITS if split not in folders]
        if missing:
            raise ConfigError(f"{description} has no {listed(missing)}.")
        return _write(
            {split: (convert_yolo(one, classes), one) for split, one in folders.items()},
            converted,
            "YOLO",
            write,
        )
    return Layout("COCO", *(_coco_split(folder, split) for split in SPLITS))


def _write(found: dict, converted: Path, kind: str, write: Writer) -> Layout:
    splits = {}
    for split, (content, images) in found.items():
        splits[split] = Split(converted / f"{split}.json", images)
        write(splits[split].annotations, json.dumps(content))
    return Layout(kind, **splits)


def in_class_order(
    layout: Layout, classes: Sequence[str], converted: Path, write: Writer = write_text
) -> Layout:
    """The data with their categories in the order of the classes, which is that of a detector's labels.

    A file in which they are in another order is left as it is, and a copy of it written.

    Args:
        layout: The data.
        classes: The names of the categories, in the order that they are to have.
        converted: Folder that copies are written to, as ``train.json`` and ``val.json``.
        write: Writes them.

    Raises:
        DataError: a file cannot be read.
    """
    splits = {}
    for name in SPLITS:
        split: Split = getattr(layout, name)
        content, problems = read_coco(split.annotations)
        if content is None:
            raise DataError(f"{problems[0]}")
        by_name = {str(category.get("name")): category for category in content["categories"]}
        if list(by_name) != list(classes):
            split = Split(converted / f"{name}.json", split.images)
            categories = [by_name[one] for one in classes]
            write(split.annotations, json.dumps(dict(content, categories=categories)))
        splits[name] = split
    return Layout(layout.kind, **splits)


def _coco_split(folder: Path, split: str) -> Split:
    files = _annotation_files(folder, SPLITS[split])
    if len(files) != 1:
        found = f"{listed(map(str, files))} could be meant" if files else "none was found"
        raise ConfigError(
            f"{folder}: the {split} annotations must be one JSON file in annotations/ with "
            f"{SPLITS[split][0]!r} in its name, and {found}: name it with --{split}-annotations (YOLO's data.yaml and "
            "VOC's folders are read too)."
        )
    return coco_split(files[0], folder)


def _annotation_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of the first name that there are any of."""
    for name in names:
        roboflow = folder / name / "_annotations.coco.json"
        if roboflow.is_file():
            return [roboflow]
        files = sorted((folder / "annotations").glob(f"*{name}*.json"))
        # COCO's own folder has captions and keypoints beside the boxes.
        instances = [file for file in files if file.name.startswith("instances")]
        if files:
            return instances or files
    return []


def coco_split(annotations: Path, folder: Path) -> Split:
    """A split whose images are found by the first file name in its annotations.

    Raises:
        DataError: the annotations cannot be read, or no folder has the image.
    """
    content, problems = read_coco(annotations)
    if content is None or not content["images"]:
        raise DataError(f"{problems[0]}" if problems else f"{annotations} has no images.")
    name = str(content["images"][0].get("file_name"))
    tried = [
        annotations.parent,
        folder,
        folder / "images",
        *sorted(one for one in folder.iterdir() if one.is_dir()),
    ]
    tried += [one for one in sorted((folder / "images").glob("*")) if one.is_dir()]
    # `train2017/` before `val2017/` where both had an image of that name.
    tried.sort(key=lambda one: not any(part in one.name for part in _named(annotations)))
    images = next((one for one in tried if (one / name).is_file()), None)
    if images is None:
        raise DataError(
            f"{annotations}: its first image, {name!r}, is not in {folder} or a folder in it; name the folder of the "
            "images with --train-images or --val-images."
        )
    return Split(annotations, images)


def _named(annotations: Path) -> list[str]:
    text = f"{annotations.parent.name}/{annotations.name}"
    return [name for names in SPLITS.values() for name in names if name in text]
