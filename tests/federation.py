"""A small federation for tests: digits of 64 pixels, three clients, and trainings that only pretend."""

from __future__ import annotations

import json
from pathlib import Path

from lad.compat.safe_loading import load_safely
from lad.datasets import DigitsParameters, make_digits
from lad.datasets.client_split import split_by_classes
from lad.engine.checkpoints import write_torch
from lad.federated.client import UPDATE, Client

from helpers import ROOT
from mmengine.config import Config

CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root={data!r}, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs')]))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root={data!r}))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={data!r} + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = []
federation = dict(rounds=2, clients={clients!r})
{more}
"""
WITHOUT_VALIDATION = "val_dataloader = val_cfg = val_evaluator = None\n"
#: FedNTD of the same student.
NOT_TRUE = """
model = dict(
    _delete_=True, type='DistillationDetector', student={student!r},
    teachers=dict(round=dict(snapshot_of='student', at='start')),
    methods=[dict(type='NotTrueDistillation', taught_by='round', weight={weight})])
"""


def make_data(folder: Path) -> Path:
    """Digits, and the annotation files ``a.json``, ``b.json`` and ``c.json`` of clients that know other classes."""
    make_digits(folder / "digits", DigitsParameters(images=12, val_images=4))
    content = json.loads((folder / "digits/annotations/train.json").read_text())
    names = [category["name"] for category in content["categories"]]
    parts = split_by_classes(content, dict(a=names[:4], b=names[4:7], c=names[7:]), seed=0)
    for name, part in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(part))
    return folder


def write_config(data: Path, path: Path, more: str = "", names: str = "abc", **clients: dict) -> str:
    """The config of a federation of some of the clients; ``more`` is added to it."""
    specs = {name: dict(ann_file=str(data / f"{name}.json")) for name in names}
    text = CONFIG.format(
        base=str(ROOT / "configs/feature/retinanet_r18-c16_fpn_digits.py"),
        data=f"{data}/digits/",
        clients=specs | clients,
        more=more,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


class Pretence:
    """A training of no time: every floating-point weight grows by a number, every integer by one.

    Attributes:
        asked: The configs that it was asked to train, as (client, round).
        configs: What they were.
    """

    def __init__(self, step: float = 1.0, images: int = 4, code: int = 0) -> None:
        self.step = step
        self.images = images
        self.code = code
        self.asked: list[str] = []
        self.configs: list[Config] = []

    def __call__(self, config: Path, folder: Path, log: Path) -> int:
        self.asked.append(folder.name)
        self.configs.append(Config.fromfile(config, import_custom_modules=False))
        log.write_text("some output\nerror: no room\n")
        if self.code:
            return self.code
        state = {
            name: value + (self.step if value.is_floating_point() else 1)
            for name, value in load_safely(folder / "initial.pth")["state_dict"].items()
        }
        write_torch(folder / UPDATE, dict(state_dict=state, images=self.images, loss=self.step))
        return 0


def make_clients(config: str, folder: Path, tell=print, **trainings: Pretence) -> list[Client]:
    """Clients that pretend to train."""
    return [Client(name, config, folder / name, training, tell=tell) for name, training in trainings.items()]
