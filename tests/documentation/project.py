"""A project folder as the documentation supposes it, with data sets of a few small images and untrained weights."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlparse

from lad.base.config import detector_config, load_config
from lad.datasets import DigitsParameters, make_digits
from lad.engine import standalone
from lad.engine.plain_config import plain_configs
from lad.export import ExportSettings, export_onnx
from lad.networks.building import without_pretraining

import cv2
import numpy as np
import torch
import yaml
from documentation.pages import all_blocks
from export_detectors import RULE, photographs, trained
from helpers import ROOT
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner.checkpoint import get_torchvision_models

#: What a checkout holds. Code is linked to; what a command might write into is copied.
LINKED = ("lad", "tests", "README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", "LICENSE")
COPIED = ("configs", "docs", "tools")
#: Folders of checkpoints that are not called after their config.
TRAINED_BY = {
    "work_dirs/demo/teacher": "configs/lad/paa_r18-c32_fpn_digits.py",
}
CLASSES = ("RBC", "WBC", "Platelets")


class Project:
    """The folder, and what is put into it when a command asks for it.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "work_dirs").mkdir()
        for suite in (folder / "configs/benchmarks").glob("*.yaml"):
            # One epoch of each training, not the configs' twelve.
            short = dict(schedule=dict(train_cfg=dict(max_epochs=1, val_interval=1)))
            suite.write_text(yaml.safe_dump(yaml.safe_load(suite.read_text()) | short))
        make_digits(folder / "data/digits", DigitsParameters(images=4, val_images=2))
        make_coco(folder / "data/bccd", CLASSES, (160, 120), dict(train="images", val="images"))
        make_coco(folder / "data/mine", ("cat", "dog"), (64, 64), dict(train="train", val="val"))
        names = {"instances_train2017": "train2017", "instances_val2017": "val2017"}
        make_coco(folder / "data/coco", CocoDataset.METAINFO["classes"], (64, 64), names)
        make_voc(folder / "BCCD_Dataset/BCCD")
        make_image(folder / "image.jpg", (64, 64))
        for block in all_blocks():
            # A listing of a file begins with the file's name.
            named = re.match(r"# ([\w/.-]+\.(?:py|ya?ml))\n", block.text)
            if named and not (folder / named[1]).exists() and not (ROOT / named[1]).exists():
                (folder / named[1]).parent.mkdir(parents=True, exist_ok=True)
                (folder / named[1]).write_text(block.text)
        self.bin = folder / "bin"
        self.bin.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """Of the commands: this python, downloads from the folder alone, one thread, and the stand-in programs."""
        return dict(
            os.environ,
            PATH=f"{self.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            PYTHONPATH=str(self.folder),
            TORCH_HOME=str(self.folder / "cache"),
            MMENGINE_HOME=str(self.folder / "cache"),
            OMP_NUM_THREADS="1",
            PYTHONWARNINGS="ignore",
            # Nothing is to come from elsewhere without being noticed.
            http_proxy="http://127.0.0.1:9",
            https_proxy="http://127.0.0.1:9",
        )

    def add_program(self, name: str, script: str) -> None:
        """Put a stand-in for a program that is not here onto the path."""
        (self.bin / name).write_text("#!/usr/bin/env bash\n" + script)
        (self.bin / name).chmod(0o755)

    def prepare(self, command: str) -> None:
        """Make the checkpoints that a command, or a config that it names, wants to read."""
        for word in shlex.split(command):
            word = word.replace("lad::", "configs/")
            if word.endswith(".py") and not word.startswith("tools/") and (self.folder / word).is_file():
                model = load_config(word).model
                self.make_teachers(model)
                self.make_pretrained(model)
        self.prepare_paths(command)

    def prepare_paths(self, text: str) -> None:
        """Make the checkpoints, and the students' configs beside them, whose paths are in a text."""
        for path in re.findall(r"\bwork_dirs/[\w./-]+\.pth", text):
            self.make_weights(path)
        for work_dir in re.findall(r"\b(work_dirs/[\w./-]+)/student\.py", text):
            self.make_plain_config(work_dir)
        if '"detector.onnx"' in text:
            self.make_exported()

    def make_exported(self) -> None:
        """A small detector as an ONNX file, unless it is there."""
        path = self.folder / "detector.onnx"
        if not path.exists():
            settings = ExportSettings(rule=RULE, classes=("RBC", "WBC", "Platelets"), num=20)
            export_onnx(trained("retinanet"), path, settings, photographs(2))

    def make_teachers(self, model: dict) -> None:
        """The checkpoints that a model config names; where it leaves the name open (``...``), one is put in."""
        for spec in filter(None, [model.get("teacher"), *(model.get("teachers") or {}).values()]):
            if "snapshot_of" in spec:
                continue
            network = {
                key: value for key, value in spec.items() if key not in ("checkpoint", "speed", "cache")
            }
            if spec["checkpoint"] is ... or "…" in spec["checkpoint"]:
                spec["checkpoint"] = f"weights/{Path(spec['config']).stem}.pth"
            self.make_weights(spec["checkpoint"], detector_config(network, "teacher"))

    def make_pretrained(self, model: dict) -> None:
        """Downloads of pretrained backbones, without weights in them: what they would fill stays as it is."""
        detectors = [model.get("student"), *(model.get("networks") or {}).values()]
        for config in [model, *(detector_config(spec, "student") for spec in detectors if spec)]:
            for name in re.findall(r"'checkpoint': '(\w+://[^']+)'", str(config.get("backbone"))):
                scheme, path = name.split("://")
                url = get_torchvision_models()[path] if scheme == "torchvision" else name
                file = self.folder / "cache/hub/checkpoints" / url.split("/")[-1]
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(dict(state_dict={}), file)

    def make_weights(self, path: str, model: dict | None = None) -> None:
        """A checkpoint of untrained weights, unless it is there.

        Args:
            path: In the folder, or a URL, whose download is put where torch keeps downloads.
            model: Config of the detector; else that of the config that the checkpoint's folder is called after.
        """
        name = Path(urlparse(path).path).name
        file = self.folder / (f"cache/hub/checkpoints/{name}" if "://" in path else path)
        if file.exists():
            return
        if model is None:
            config = self.config_of(file.parent)
            model = plain_configs(config).get("student", config).model
        file.parent.mkdir(parents=True, exist_ok=True)
        network = MODELS.build(without_pretraining(model))
        network.init_weights()
        torch.save(dict(state_dict=network.state_dict(), meta={}), file)

    def config_of(self, work_dir: Path) -> Config:
        """The config of the training that a folder is called after."""
        known = TRAINED_BY.get(str(work_dir.relative_to(self.folder)))
        if known:
            return load_config(known if "::" in known else str(self.folder / known))
        found = [*self.folder.glob(f"{work_dir.name}.py"), *(ROOT / "configs").rglob(f"{work_dir.name}.py")]
        assert found, (
            f"no config is called {work_dir.name}.py: say in TRAINED_BY whose checkpoints are in {work_dir}"
        )
        return load_config(str(found[0]))

    def make_plain_config(self, work_dir: str) -> None:
        """What ``tools/train.py`` leaves in a work_dir for whoever loads the student."""
        folder = self.folder / work_dir
        folder.mkdir(parents=True, exist_ok=True)
        for name, config in plain_configs(self.config_of(folder)).items():
            standalone(config).dump(folder / f"{name}.py")


def make_image(path: Path, size: tuple[int, int]) -> None:
    """A photograph of noise, of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)


def boxes_of(size: tuple[int, int]) -> list[list[int]]:
    """Two boxes, x, y, width and height, in an image of (width, height)."""
    width, height = size
    return [
        [width // 8, height // 8, width // 2, height // 2],
        [width // 2, height // 2, width // 3, height // 3],
    ]


def make_coco(folder: Path, classes: tuple[str, ...], size: tuple[int, int], splits: dict[str, str]) -> None:
    """A data set in COCO's format: ``annotations/SPLIT.json`` and two images in the folder of each split."""
    for split, images in splits.items():
        content = dict(
            images=[], annotations=[], categories=[dict(id=i, name=n) for i, n in enumerate(classes, 1)]
        )
        for number in (1, 2):
            name = f"{split}_{number}.jpg"
            make_image(folder / images / name, size)
            content["images"].append(dict(id=number, file_name=name, width=size[0], height=size[1]))
            for category, box in enumerate(boxes_of(size), 1):
                content["annotations"].append(
                    dict(
                        id=len(content["annotations"]) + 1,
                        image_id=number,
                        category_id=category,
                        bbox=box,
                        area=box[2] * box[3],
                        iscrowd=0,
                        segmentation=[],
                    )
                )
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def make_voc(folder: Path) -> None:
    """Two images in Pascal VOC's format, one for training and one for validation."""
    for split in ("train", "val"):
        make_image(folder / "JPEGImages" / f"{split}.jpg", (64, 64))
        things = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for name, (x, y, w, h) in zip(CLASSES, boxes_of((64, 64)), strict=False)
        )
        text = f"<annotation><size><width>64</width><height>64</height></size>{things}</annotation>"
        for name, content in ((f"Annotations/{split}.xml", text), (f"ImageSets/Main/{split}.txt", split)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
