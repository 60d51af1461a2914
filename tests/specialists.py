"""Detectors taught by several teachers that know other classes."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from dense_detectors import dense
from helpers import build, save_checkpoint
from mmdet.registry import MODELS
from two_stage_detectors import random_teacher, two_stage

CLASSES = ("red", "white", "platelet")
#: Overlapping, in other orders, one with a class that the student does not have.
KNOWN = dict(a=("white", "red"), b=("platelet", "cat", "red"))


def one_stage(num_classes: int = 3, family: str = "retinanet") -> dict:
    """A small dense detector of a number of classes."""
    return dense(family, num_classes=num_classes)


def distil(
    folder: Path, make=one_stage, known: dict[str, tuple[str, ...] | None] = KNOWN, **method
) -> torch.nn.Module:
    """A student of three classes (weights of seed 0) that several teachers teach, in training.

    Args:
        folder: Of the teachers' checkpoints; those that are there are taken.
        make: Config of a detector of a number of classes.
        known: Class names of each teacher; None: three classes without names.
        method: Settings of the method, by default MulDE.
    """
    teachers = {}
    for seed, (name, classes) in enumerate(known.items(), 1):
        config = make(len(classes or CLASSES))
        file = folder / f"{config['type']}_{name}_{'-'.join(classes or ())}.pth"
        if not file.exists():
            meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
            save_checkpoint(_trained(config, seed), file, **meta)
        teachers[name] = dict(copy.deepcopy(config), checkpoint=str(file))
    method = method if "type" in method else dict(dict(type="MulDE", classes=CLASSES), **method)
    model = MODELS.build(
        dict(type="DistillationDetector", student=make(3), teachers=teachers, methods=[method])
    )
    model.student.load_state_dict(build(make(3)).state_dict())
    model.eval()  # batch norm as at test time, so that what is computed twice is equal
    for part in (model, model.student, getattr(model.student, "bbox_head", None)):
        if part is not None:
            part.training = True
    return model


def _trained(config: dict, seed: int) -> torch.nn.Module:
    """A detector whose logits are other ones than the next seed's, and of the size of a trained detector's."""
    network = random_teacher(config) if "roi_head" in config else build(config, seed)
    heads = network.roi_head.bbox_head if "roi_head" in config else network.bbox_head
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for head in heads if isinstance(heads, torch.nn.ModuleList) else [heads]:
            for name in ("fc_cls", "retina_cls"):
                if hasattr(head, name):
                    torch.nn.init.normal_(getattr(head, name).weight, std=0.03)
    return network


def faster(num_classes: int = 3) -> dict:
    """A small Faster R-CNN of a number of classes."""
    return two_stage("faster", num_classes=num_classes)


def cascade(num_classes: int = 3) -> dict:
    """A small Cascade R-CNN of a number of classes."""
    return two_stage("cascade", num_classes=num_classes)
