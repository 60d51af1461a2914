"""Draw which priors are positive for an object, and why: of a student alone, its teacher, and the student with LAD.

One PNG an image. Networks that learn together (CoLearningAssignment) are drawn with each network's own
positives and who taught; a plain detector alone. Heads: PAA, TOOD, RTMDet, YOLOX, DDOD.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lad.analysis.pictures.assignment_drawing import save_assignment
from lad.analysis.pictures.assignments import assignment_pictures, check_drawable
from lad.base.config import detector_config, kind_of, load_config, merge_options
from lad.cli.checks import check_dataset_files
from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options
from lad.compat.safe_loading import load_safely
from lad.datasets.configured import datasets_of
from lad.detectors.configs import is_distillation, with_networks
from lad.detectors.inspection import deployed_network
from lad.detectors.state import DISTILLATION
from lad.errors import CheckpointError, ConfigError, nearest
from lad.networks.building import without_pretraining
from lad.networks.verified_checkpoint import load_verified

from mmdet.registry import DATASETS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose, pseudo_collate
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from torch import nn


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="the student's checkpoint, or a training's (default: random weights; the teacher's is in the config)",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=["2"],
        metavar="IMAGE",
        help="one number N: the first N images; or file names of the data set; or ids, as id=7 id=9 (default: 2)",
    )
    parser.add_argument("--split", choices=["train", "val", "test"], default="train", help="which data set")
    parser.add_argument("--out-dir", default="assignments", metavar="DIR", help="(default: assignments)")
    parser.add_argument(
        "--max-objects",
        type=int,
        default=3,
        metavar="N",
        help="objects drawn of an image, those first that the teacher changes most (default: 3)",
    )
    parser.add_argument(
        "--role-switch",
        action="store_true",
        help="who teaches which object on which level; for a CoLearningAssignment, where it is drawn anyway",
    )
    add_config_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of random weights (default: 0)")
    args = parser.parse_args()
    if args.max_objects < 1:
        parser.error(f"--max-objects must be at least 1, got {args.max_objects}")
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed must be from 0 to {2**32 - 1}, got {args.seed}")
    return args


def build(cfg: Config, checkpoint: str | None, seed: int) -> nn.Module:
    """The config's detector with a checkpoint's weights, or random ones."""
    config = cfg.model
    # The weights are the checkpoint's or random: nothing is downloaded that would be thrown away.
    if is_distillation(config):
        config = with_networks(
            config, trained=lambda spec, role: without_pretraining(detector_config(spec, role))
        )
    else:
        config = without_pretraining(config)
    if checkpoint is not None and "://" not in checkpoint and not Path(checkpoint).is_file():
        raise CheckpointError(f"--checkpoint: there is no checkpoint {checkpoint!r}.")
    set_random_seed(seed)
    # How each weight was initialised is no news here.
    MMLogger.get_current_instance().setLevel("WARNING")
    model = MODELS.build(config)
    model.init_weights()
    if checkpoint is not None:
        _load(model, checkpoint)
    if is_distillation(config):
        model.take_missing_snapshots()
    return model.eval()


def _load(model: nn.Module, checkpoint: str) -> None:
    """Load a checkpoint: the deployed network key by key, and the other networks, exits and snapshots that it holds."""
    load_verified(deployed_network(model), checkpoint, owner="--checkpoint")
    state = load_safely(checkpoint, map_location="cpu").get("state_dict", {})
    if any(key.startswith(DISTILLATION) for key in state):
        model.load_state_dict(state, strict=False)


def datasets(cfg: Config, split: str) -> list[BaseDataset]:
    """The innermost data sets of a split, with their images as at test time and their boxes on them."""
    loader = cfg.get(f"{split}_dataloader")
    if loader is None:
        raise ConfigError(f"--split {split}: the config has no {split}_dataloader.")
    at_test = cfg.get("test_dataloader") or cfg.get("val_dataloader") or loader
    steps = next(datasets_of(at_test["dataset"]))["pipeline"]
    steps = [step for step in steps if step["type"] != "LoadAnnotations"]
    # Behind the image: the resizing that follows then takes the boxes along.
    pipeline = [steps[0], dict(type="LoadAnnotations", with_bbox=True), *steps[1:]]
    found = []
    for config in datasets_of(loader["dataset"]):
        dataset = DATASETS.build(dict(config, test_mode=False, pipeline=[]))
        dataset.pipeline = Compose(pipeline)
        found.append(dataset)
    return found


def chosen(data: list[BaseDataset], images: list[str]) -> Iterator[dict[str, Any]]:
    """The images that ``--images`` names, each through its data set's pipeline."""
    if len(images) == 1 and images[0].isdecimal():
        if int(images[0]) == 0:
            raise ConfigError("--images 0 draws nothing; for the image with this id use id=0.")
        every = ((dataset, index) for dataset in data for index in range(len(dataset)))
        for _, (dataset, index) in zip(range(int(images[0])), every, strict=False):
            yield dataset[index]
        return
    places: dict[str, tuple[BaseDataset, int]] = {}
    names = []
    for dataset in data:
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            name = Path(info["img_path"]).name
            names.append(name)
            for key in (info["img_path"], name, f"id={info['img_id']}"):
                places.setdefault(key, (dataset, index))
    for image in images:
        if image not in places:
            # A number alone is how many; among others it could be meant for an id.
            meant = (
                f"; for the image with this id use id={image}" if image.isdecimal() else nearest(image, names)
            )
            raise ConfigError(
                f"--images: {image!r} is neither id nor file name of the data set's {len(names)} images with objects"
                f"{meant}."
            )
        dataset, index = places[image]
        yield dataset[index]


def picture_names(paths: Iterable[str]) -> dict[str, str]:
    """The file name of each image's picture: that of the image, unless another image of the data set has it too.

    Those then have their folders before it, from the one on in which they differ, and the image's ending where that
    alone tells them apart: ``a/x.png`` and ``b/x.png``, or ``x.jpg.png``.

    Args:
        paths: Of all images of the data set.
    """
    same: dict[str, dict[str, Path]] = {}
    for path in dict.fromkeys(paths):
        same.setdefault(Path(path).stem, {})[path] = Path(path).absolute()
    names = {}
    for stem, own in same.items():
        root = os.path.commonpath([place.parent for place in own.values()])
        places = [(place.parent / stem).relative_to(root) for place in own.values()]
        taken = Counter(places)
        for path, place in zip(own, places, strict=True):
            ending = Path(path).suffix if taken[place] > 1 else ""
            names[path] = f"{place}{ending}.png"
    return names


def check_no_image(out_dir: str, names: dict[str, str]) -> None:
    """Refuse a folder in which a picture would replace an image of the data set.

    Raises:
        ConfigError: names one.
    """
    there = [name for name in names.values() if (Path(out_dir) / name).exists()]
    # Data sets have very many images: their paths are followed only where pictures could replace something.
    images = {Path(image).resolve() for image in names} if there else set()
    for name in there:
        if (Path(out_dir) / name).resolve() in images:
            raise ConfigError(
                f"--out-dir {out_dir} has the data set's {name}, which its picture would replace: name another folder."
            )


def main() -> None:
    """Run ``lad visualize``."""
    args = parse_args()
    with one_line_errors():
        cfg = load_config(args.config)
        merge_options(cfg, args.cfg_options or {}, "--cfg-options")
        register_all_modules(init_default_scope=False)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        methods = [kind_of(method) for method in cfg.model.get("methods") or ()]
        if args.role_switch and "CoLearningAssignment" not in methods:
            raise ConfigError(
                f"--role-switch needs a CoLearningAssignment; the methods of {args.config} are {methods}."
            )
        check_dataset_files(cfg)
        model = build(cfg, args.checkpoint, args.seed)
        check_drawable(model)
        # TOOD reads the epoch.
        MessageHub.get_current_instance().update_info("epoch", 0)
        data = datasets(cfg, args.split)
        classes = data[0].metainfo.get("classes")
        images = [
            dataset.get_data_info(index)["img_path"] for dataset in data for index in range(len(dataset))
        ]
        names = picture_names(images)
        check_no_image(args.out_dir, names)
        for sample in chosen(data, args.images):
            (picture,) = assignment_pictures(model, pseudo_collate([sample]), classes)
            out_file = Path(args.out_dir) / names[sample["data_samples"].img_path]
            save_assignment(picture, out_file, picture.most_changed(args.max_objects))
            counts = ", ".join(
                f"{panel.title} {sum(int(own.positive.sum()) for own in panel.objects)}"
                for panel in picture.panels
            )
            print(f"{out_file}: {len(picture.bboxes)} objects; positives: {counts}")
