"""Trainings of two small layers that take milliseconds, from configs, for tests of resuming."""

from __future__ import annotations

import copy
import logging
import time

from lad.engine.defaults import survive_interruption

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner


@MODELS.register_module()
class TwoLayers(BaseModel):
    """Two linear layers and a batch norm.

    ``width`` changes shapes, ``extra`` adds a layer, ``note`` changes nothing, ``second_loss`` adds a loss.
    """

    def __init__(self, width=4, extra=False, note=None, second_loss=False):
        super().__init__()
        self.second_loss = second_loss
        torch.manual_seed(0)
        self.backbone = torch.nn.Linear(3, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.head = torch.nn.Linear(width, 1)
        if extra:
            self.adapter = torch.nn.Linear(width, width)

    def forward(self, inputs, mode="tensor"):
        outputs = self.head(self.norm(self.backbone(torch.stack(list(inputs)))).relu())
        if mode != "loss":
            return [outputs.detach()]
        second = dict(loss_second=outputs.abs().mean()) if self.second_loss else {}
        return dict(loss_first=outputs.square().mean(), **second)


@MODELS.register_module()
class SameTwoLayers(TwoLayers):
    """The same under another name."""


@DATASETS.register_module()
class RandomVectors(torch.utils.data.Dataset):
    """Vectors of random numbers."""

    metainfo = dict(classes=("a",))

    def __init__(self, length):
        self.data = torch.randn(length, 3, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return dict(inputs=self.data[int(index)])


@HOOKS.register_module()
class TraceHook(Hook):
    """Records each iteration's settings of the optimizer by group."""

    priority = "VERY_LOW"

    def __init__(self):
        self.settings = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.param_groups  # those of the base learning rate, too
        self.settings[runner.iter] = [
            {key: value for key, value in group.items() if key in ("lr", "weight_decay", "momentum", "betas")}
            for group in groups
        ]


def config(**changed):
    """A config of 4 epochs of 3 iterations; ``a__b=c`` sets ``a.b``."""
    cfg = Config(
        dict(
            model=dict(type="TwoLayers"),
            train_dataloader=dict(
                dataset=dict(type="RandomVectors", length=12),
                batch_size=4,
                num_workers=0,
                sampler=dict(type="DefaultSampler", shuffle=True),
                collate_fn=dict(type="pseudo_collate"),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=4),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
            param_scheduler=[dict(type="MultiStepLR", milestones=[2], gamma=0.1)],
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
            custom_hooks=[dict(type="TraceHook")],
            randomness=dict(seed=0),
            default_scope="mmengine",
        )
    )
    cfg.merge_from_dict({key.replace("__", "."): copy.deepcopy(value) for key, value in changed.items()})
    return cfg


class Handler(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


class Run:
    """A finished training.

    Args:
        cfg: Its config.
        work_dir: Folder of the checkpoints.
        resume: A checkpoint, or None to start anew.
        schedule: Of :class:`lad.engine.hooks.ResumeHook`.
    """

    def __init__(self, cfg, work_dir, resume=None, schedule="checkpoint"):
        cfg = copy.deepcopy(cfg)
        cfg.work_dir = str(work_dir)
        cfg.experiment_name = f"{work_dir.name}_{time.time_ns()}"
        cfg.resume, cfg.load_from = resume is not None, None if resume is None else str(resume)
        survive_interruption(cfg)
        cfg.default_hooks.resume.schedule = schedule
        self.runner = Runner.from_cfg(cfg)
        self.before = {key: value.clone() for key, value in self.runner.model.state_dict().items()}
        handler = Handler()
        self.runner.logger.addHandler(handler)
        self.lines = handler.lines

    def train(self):
        self.runner.train()
        return self

    @property
    def settings(self):
        return next(hook for hook in self.runner.hooks if isinstance(hook, TraceHook)).settings

    @property
    def weights(self):
        return self.runner.model.state_dict()

    def warnings(self, *words):
        """Warnings about resuming with all of the words."""
        about = ("Optimizer and schedule are", "in effect from here on", "--resume", "accumulated")
        return [
            line
            for level, line in self.lines
            if level == "WARNING"
            and any(start in line for start in about)
            and all(word in line for word in words)
        ]
