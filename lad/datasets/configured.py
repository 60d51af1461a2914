"""Data sets as configs describe them: innermost data sets, class names, files, what their pipelines load."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lad.datasets.coco_dataset import CocoDataset as OwnCocoDataset
from lad.errors import ConfigError, listed

from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmdet.datasets import BaseDetDataset, CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_from_file

#: Channels of images by ``color_type`` of ``LoadImageFromFile``; those of 'unchanged' are the file's.
LOADED_CHANNELS = {
    "color": 3,
    "color_ignore_orientation": 3,
    "grayscale": 1,
    "grayscale_ignore_orientation": 1,
}


@dataclass(frozen=True)
class CocoData:
    """Files of a COCO data set of a config.

    Attributes:
        annotations: The annotation file.
        images: The folder that its file names are in; None if it is not a local one.
        classes: The class names that the config trains on; None for those of the file.
        color_type, imdecode_backend: How its pipeline decodes images.
        masks: Whether its pipeline loads masks.
        labelled: Whether its annotations are read.
    """

    annotations: Path
    images: Path | None
    classes: tuple[str, ...] | None
    color_type: str = "color"
    imdecode_backend: str | None = None
    masks: bool = False
    labelled: bool = True


def setting(config: dict, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """A setting of a config, None if it is missing or None.

    Raises:
        ConfigError: it is of another type.
    """
    value = config.get(key)
    if value is None or isinstance(value, kinds):
        return value
    wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    raise ConfigError(f"{where}: {key} must be a {wanted}, got {value!r:.60}.")


def datasets_of(config: Any) -> Iterator[dict]:
    """The innermost dataset configs of wrappers (``dataset``) and concatenations (``datasets``)."""
    if not isinstance(config, dict):
        return
    inner = config.get("datasets") or ([config["dataset"]] if config.get("dataset") is not None else [])
    if not inner:
        yield config
    for dataset in inner if isinstance(inner, (list, tuple)) else ():
        yield from datasets_of(dataset)


def dataset_type(dataset: dict) -> Any:
    """Class of an innermost data set config; None if it is not registered."""
    kind: Any = dataset.get("type")
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return kind if isinstance(kind, type) else None


def classes_of(dataset: dict, where: str) -> tuple[str, ...] | None:
    """Class names of an innermost data set config, read as MMEngine reads them.

    ``metainfo['classes']`` is a sequence of names or the path of a file with one name a line; without it they are those
    of the data set's type (COCO's 80 for ``CocoDataset``).

    Args:
        dataset: The config.
        where: The setting that holds it (``'train_dataloader'``), for errors.

    Returns:
        The names; None if the data set has none, or if its type decides in its own way when it is built.

    Raises:
        ConfigError: it is a text that is no path of a file, no sequence of texts, or names a class twice.
    """
    kind, metainfo = dataset_type(dataset), setting(dataset, "metainfo", dict, where)
    if kind is None or not issubclass(kind, BaseDataset):
        return None
    if kind is OwnCocoDataset and not is_labelled(dataset) and not has_own_classes(dataset):
        return None
    classes = (metainfo or {}).get("classes", kind.METAINFO.get("classes"))
    if isinstance(classes, str):
        # Where it is no file's path it is refused below.
        with contextlib.suppress(OSError, ValueError, TypeError):
            classes = list_from_file(classes)
    if classes is None:
        return None
    if isinstance(classes, str):
        raise ConfigError(
            f"{where}: metainfo.classes is the text {classes!r}: write ({classes!r},) for one class, or the path of an "
            "existing file with a name a line."
        )
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"{where}: metainfo.classes must be a tuple of names, got {classes!r:.80}.")
    if not classes:
        raise ConfigError(f"{where}: metainfo.classes is empty: name the classes.")
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: metainfo.classes names {listed(map(repr, twice))} twice.")
    plain = (CocoDataset.__init__, OwnCocoDataset.__init__, BaseDetDataset.__init__)
    return tuple(classes) if kind.__init__ in plain else None


def first_difference(first: Sequence[str], second: Sequence[str]) -> int | None:
    """The first label that two series of class names call differently; None if they agree as far as both go."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((label for label, (own, other) in pairs if own != other), None)


def has_own_classes(dataset: dict) -> bool:
    """Whether a data set config names its classes itself."""
    return "classes" in (dataset.get("metainfo") or {})


def is_plain_coco(dataset: dict) -> bool:
    """Whether a data set reads COCO's format as ``CocoDataset`` does; LVIS and others do it in their own way."""
    kind = dataset_type(dataset)
    parts = ("__init__", "load_data_list", "parse_data_info", "filter_data", "COCOAPI")
    return (
        kind is not None
        and issubclass(kind, CocoDataset)
        and all(
            getattr(kind, part) in (getattr(CocoDataset, part), getattr(OwnCocoDataset, part))
            for part in parts
        )
    )


def is_labelled(dataset: dict) -> bool:
    """Whether the annotations of a data set are read: not with ``labelled=False`` of ``CocoDataset``."""
    return dataset.get("labelled", True) is not False


def annotation_file(dataset: dict, where: str = "dataset") -> Path | None:
    """Path of a data set config's annotation file; None if it has none or is not a local one.

    Raises:
        ConfigError: a setting has a wrong type.
    """
    name, root = setting(dataset, "ann_file", str, where), setting(dataset, "data_root", str, where) or ""
    if not name or not is_local(f"{name} {root}", dataset.get("backend_args"), where):
        return None
    return Path(root) / name


def coco_data(dataset: dict, where: str = "dataset") -> CocoData | None:
    """Find the files of an innermost data set config; None if they are not local files of COCO's format.

    Args:
        dataset: The config.
        where: The setting that holds it, for errors.

    Raises:
        ConfigError: a setting has a wrong type, or its classes are none; see :func:`classes_of`.
    """
    path = annotation_file(dataset, where)
    if not is_plain_coco(dataset) or path is None:
        return None
    prefix = setting(setting(dataset, "data_prefix", dict, where) or {}, "img", str, where) or ""
    steps = list(transforms_of(dataset.get("pipeline")))
    loading: dict = next((step for step in steps if _loads_image(step)), {})
    return CocoData(
        annotations=path,
        images=None if "://" in prefix else Path(dataset.get("data_root") or "") / prefix,
        classes=classes_of(dataset, where),
        color_type=loading.get("color_type", "color"),
        imdecode_backend=loading.get("imdecode_backend"),
        masks=any(loads_masks(step) for step in steps),
        labelled=is_labelled(dataset),
    )


def filter_rules(dataset: dict, where: str) -> dict[str, Any]:
    """``filter_cfg`` of a data set config.

    Raises:
        ConfigError: it, or its ``min_size``, has a wrong type.
    """
    rules = setting(dataset, "filter_cfg", dict, where) or {}
    setting(rules, "min_size", (int, float), f"{where}: filter_cfg")
    return rules


def transforms_of(pipeline: Any) -> Iterator[dict]:
    """The configs of the transforms of a pipeline, those inside of others included."""
    if isinstance(pipeline, dict):
        if "type" in pipeline:
            yield pipeline
        for value in pipeline.values():
            yield from transforms_of(value)
    elif isinstance(pipeline, (list, tuple)):
        for value in pipeline:
            yield from transforms_of(value)


def transform_type(transform: Mapping) -> Any:
    """Class of a transform's config; None if it is not registered."""
    kind: Any = transform["type"]
    kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    return kind if isinstance(kind, type) else None


def loads_masks(transform: Mapping) -> bool | None:
    """Whether a transform that loads annotations loads masks; None for any other transform."""
    kind = transform_type(transform)
    if kind is None or not issubclass(kind, LoadAnnotations):
        return None
    if "with_mask" in transform:
        return bool(transform["with_mask"])
    for base in kind.__mro__:
        default = inspect.signature(base).parameters.get("with_mask")
        if default is not None:
            return default.default is True
    return False


def loaded_channels(pipeline: Any) -> int | None:
    """Channels of the images that a pipeline gives: 1 or 3; None where a transform may have changed them.

    Args:
        pipeline: Configs of transforms, at any depth.
    """
    channels = None
    for step in transforms_of(pipeline):
        kind = transform_type(step)
        if (
            kind is None
            or kind.__module__.split(".")[0] not in ("mmcv", "mmdet", "lad")
            or "Gray" in kind.__name__
        ):
            return None
        if issubclass(kind, LoadImageFromFile):
            channels = LOADED_CHANNELS.get(step.get("color_type", "color"))
    return channels


def _loads_image(transform: dict) -> bool:
    kind = transform_type(transform)
    return kind is not None and issubclass(kind, LoadImageFromFile)


def is_local(paths: str, backend_args: Any, where: str) -> bool:
    """Whether paths are of local files, given a config's ``backend_args``.

    Raises:
        ConfigError: ``backend_args`` has a wrong type.
    """
    backend = setting(dict(backend_args=backend_args), "backend_args", dict, where) or {}
    return "://" not in paths and backend.get("backend", "local") in ("local", "disk")
