"""What a student's config says to those who have MMDetection alone."""

from lad.base.config import load_config
from lad.datasets import DIGIT_CLASSES
from lad.datasets.bad_images import check_image_loading
from lad.engine import standalone, survive_interruption
from lad.engine.plain_config import plain_configs

import pytest
from helpers import ROOT
from mmengine.config import Config

CONFIGS = ROOT / "configs"


def trained(config, **changes):
    """The student's config as a training of a config leaves it, before and after."""
    cfg = load_config(str(CONFIGS / config))
    cfg.merge_from_dict(changes)
    survive_interruption(cfg)
    check_image_loading(cfg.train_dataloader, "skip")
    (plain,) = plain_configs(cfg).values()
    return plain, standalone(plain)


def test_nothing_of_this_package_is_left_where_nothing_of_it_is_needed():
    before, after = trained(
        "feature/fgd_retinanet-r50_retinanet-x101_fpn_2x_coco.py",
        custom_hooks=[dict(type="EMAHook"), dict(type="AssignmentVisualizationHook")],
        custom_imports=dict(imports=["lad", "lad.engine.hooks", "json"], allow_failed_imports=False),
    )
    assert after.custom_imports == dict(imports=["json"], allow_failed_imports=False)
    assert after.custom_hooks == [dict(type="EMAHook")]
    assert after.default_hooks.checkpoint.type == "CheckpointHook"
    assert after.train_cfg.type == "EpochBasedTrainLoop"
    assert after.train_cfg.max_epochs == before.train_cfg.max_epochs
    assert after.train_dataloader.dataset.pipeline[0].type == "LoadImageFromFile"
    assert "on_error" not in after.train_dataloader.dataset.pipeline[0]
    assert not {"preemption", "numerical_faults", "teacher_check", "phases"} & set(after.default_hooks)
    assert after.model == before.model
    assert "numerical_faults" in before.default_hooks


def test_the_batched_head_the_digits_and_the_metric_become_mmdetections():
    before, after = trained(
        "lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py",
        **{"val_evaluator.backend": "faster-coco-eval", "optim_wrapper.type": "BFloat16OptimWrapper"},
    )
    assert "custom_imports" not in after
    assert after.model.bbox_head == dict(before.model.bbox_head, type="PAAHead")
    assert (after.val_evaluator.type, after.optim_wrapper.type) == ("CocoMetric", "OptimWrapper")
    assert "backend" not in after.val_evaluator
    data = after.test_dataloader.dataset
    assert data.type == "CocoDataset"
    assert tuple(data.metainfo["classes"]) == DIGIT_CLASSES
    text = str(after._cfg_dict)
    assert not any(word in text for word in ("lad", "Batched", "Atomic", "Resumable", "Checked"))


def test_box_loss_weight_which_only_training_asks_for_is_left_out():
    plain = Config(dict(model=dict(bbox_head=dict(type="mmdet.BatchedPAAHead", box_loss_weight="uniform"))))
    assert standalone(plain).model.bbox_head == dict(type="PAAHead")
    assert plain.model.bbox_head.box_loss_weight == "uniform"


@pytest.mark.parametrize(
    "changes",
    [
        {"model.bbox_head": dict(type="PAACOPHead")},
        {"model.bbox_head": dict(type="lad.heads.cop_head.PAACOPHead")},
        {"model.bbox_head.loss_cls": dict(type="ProbabilityFocalLoss")},
        {"tta_model": dict(type="SoftVoteTTAModel")},
    ],
)
def test_what_needs_this_package_still_imports_it(changes):
    cfg = load_config(str(CONFIGS / "lad/paa_r18-c16_fpn_digits.py"))
    survive_interruption(cfg)
    assert "custom_imports" not in standalone(cfg)
    cfg.merge_from_dict(changes)
    after = standalone(cfg)
    assert after.custom_imports.imports == ["lad"]
    assert after.default_hooks.checkpoint.type == "CheckpointHook"


def test_what_a_config_builds_nothing_from_does_not_count():
    cfg = load_config(str(CONFIGS / "lad/paa_r18-c16_fpn_digits.py"))
    cfg.methods = [dict(type="FeatureDistillation", loss=dict(type="FGDLoss"))]
    assert "custom_imports" not in standalone(cfg)
