"""Small students, teachers and streams for the tests of online distillation."""

from __future__ import annotations

import copy
from pathlib import Path

from lad.engine.session import TrainingSession
from lad.online.accuracy import no_instances
from lad.online.detector import FrameDetector, FramePipeline
from lad.online.settings import OnlineSettings
from lad.online.trainer import Trainer

import cv2
import numpy as np
import torch
from helpers import build, save_checkpoint, small_detector
from mmengine.config import Config
from mmengine.structures import InstanceData

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
CLASSES = ("a", "b", "c")
SGD = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.001, momentum=0.9), clip_grad=dict(max_norm=10)
)


def small_config(config: str = RETINANET, size: int = 64, max_per_img: int = 5) -> Config:
    """A detector that finds the best few boxes of a frame, however bad, with its test pipeline."""
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(size, size), keep_ratio=True),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(
            type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        ),
    ]
    model = small_detector(config)
    tests = model.test_cfg.rcnn if "rcnn" in model.test_cfg else model.test_cfg
    tests.update(score_thr=0.0, max_per_img=max_per_img)
    return Config(
        dict(
            default_scope="mmdet",
            model=model,
            test_dataloader=dict(dataset=dict(type="CocoDataset", pipeline=pipeline)),
            optim_wrapper=SGD,
        )
    )


def frame_detector(seed: int = 0, config: str = RETINANET, **settings) -> FrameDetector:
    """A detector of random weights."""
    cfg = small_config(config, **settings)
    model = build(cfg.model, seed).eval()
    model.dataset_meta = dict(classes=CLASSES)
    return FrameDetector(model, FramePipeline(cfg, "student"))


def write_configs(folder: Path, **online) -> Path:
    """A config with its student, teacher and their checkpoints; returns its path. Every box counts."""
    for number, name in enumerate(("student", "teacher")):
        cfg = small_config()
        if name == "student":
            cfg.load_from = str(folder / "student.pth")
            cfg.online = dict(
                teacher=dict(config=str(folder / "teacher.py"), checkpoint=str(folder / "teacher.pth")),
                **dict(dict(teacher_score=0.0, student_score=0.0, min_stride=2, max_updates=2), **online),
            )
        cfg.dump(str(folder / f"{name}.py"))
        meta = dict(dataset_meta=dict(classes=CLASSES))
        save_checkpoint(build(cfg.model, number), folder / f"{name}.pth", **meta)
    return folder / "student.py"


def write_video(path: Path, frames: int = 20, size: tuple[int, int] = (64, 48)) -> str:
    """A video of noise that changes from frame to frame."""
    random = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, size)
    for _ in range(frames):
        writer.write(random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    writer.release()
    return str(path)


def found(*rows, labels=None, scores=None) -> InstanceData:
    """Detections of a frame."""
    if not rows:
        return no_instances()
    return InstanceData(
        bboxes=torch.tensor(rows, dtype=torch.float32),
        labels=torch.tensor([0] * len(rows) if labels is None else labels, dtype=torch.long),
        scores=torch.ones(len(rows)) if scores is None else torch.tensor(scores, dtype=torch.float32),
    )


class Scripted:
    """A detector that finds one prepared answer after the other, and then the last for ever."""

    def __init__(self, *answers: InstanceData, detector: FrameDetector | None = None) -> None:
        self._answers, self._detector = list(answers), detector
        self.model = None if detector is None else detector.model
        self.calls = 0

    def prepare(self, image):
        return None if self._detector is None else self._detector.prepare(image)

    def detect(self, frame, min_score=0.0):
        self.calls += 1
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        return copy.deepcopy(answer)


def scripted_trainer(
    teacher: Scripted, *student: InstanceData, settings: OnlineSettings | None = None, seed: int = 0
) -> tuple[Trainer, TrainingSession]:
    """A trainer whose student learns in earnest, and whose detections after each update are prepared."""
    detector = frame_detector(seed)
    session = TrainingSession(detector.model, SGD)
    trainer = Trainer(
        Scripted(*student, detector=detector),
        teacher,
        torch.arange(3),
        session,
        settings or OnlineSettings(),
    )
    return trainer, session
