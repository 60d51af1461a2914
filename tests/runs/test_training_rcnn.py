"""Two processes that distil a Faster R-CNN, one of which sees no object."""

import json

from lad.base.config import load_config
from lad.compat.safe_loading import load_safely
from lad.datasets import DigitsParameters, make_digits

import torch
from fault_runs import Trainer
from helpers import ROOT, save_checkpoint
from mmdet.registry import MODELS
from test_training import options, scalars

CONFIGS = ROOT / "configs/faster_rcnn"


def test_rank_without_objects_trains_with_one_that_has_them_to_identical_parameters(tmp_path):
    digits = tmp_path / "digits"
    make_digits(digits, DigitsParameters(images=8, val_images=2))
    annotations = digits / "annotations/train.json"
    content = json.loads(annotations.read_text())
    # In order, the second process has every second image.
    empty = {image["id"] for image in content["images"][1::2]}
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] not in empty]
    annotations.write_text(json.dumps(content))
    torch.manual_seed(1)
    teacher = MODELS.build(load_config(str(CONFIGS / "faster-rcnn_r18-c32_fpn_digits.py")).model)
    teacher.init_weights()
    checkpoint = save_checkpoint(teacher, tmp_path / "teacher.pth")
    config = tmp_path / "two.py"
    config.write_text(
        f"_base_ = {str(CONFIGS / 'frcnn-all_faster-rcnn-r18-c16_faster-rcnn-r18-c32_fpn_digits.py')!r}\n"
        "custom_imports = dict(imports=['lad', 'fault_runs'])\n"
        "custom_hooks = [dict(type='SaveRanksHook')]\n"
    )
    settings = {
        "model.teacher.checkpoint": checkpoint,
        "train_dataloader.batch_size": 2,
        "train_dataloader.sampler.shuffle": False,
        "train_dataloader.dataset.filter_cfg.filter_empty_gt": False,
        "train_cfg.val_interval": 2,
    }
    trainer = Trainer(tmp_path)
    assert trainer.run_two(config, "out", *options(tmp_path, **settings)) == [0, 0], trainer.output
    out = tmp_path / "out"
    first, second = (load_safely(out / f"rank_{rank}.pth") for rank in (0, 1))
    assert first.pop("objects") > 0 == second.pop("objects")
    trained = [key for key in first if "running" not in key and "num_batches" not in key]
    assert "distillation.HintDistillation.connectors.0.conv.weight" in trained
    assert all(torch.equal(first[key], second[key]) for key in trained)
    logged = scalars(out)
    assert len(logged) == 2
    assert all(value == value for step in logged for value in step.values())  # no NaN
    names = {
        f"loss_{part}" for part in ("hint", "cls_soft", "bbox_bounded", "rpn_cls_soft", "rpn_bbox_bounded")
    }
    assert names <= set(logged[0])
