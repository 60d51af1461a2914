"""Checkpoints of `load_from` and of tests: they fit, are loaded in part on request, or are refused in one line."""

import copy
import logging
from types import SimpleNamespace

from lad.engine.hooks import CheckpointFitHook
from lad.errors import CheckpointError, ConfigError

import pytest
import torch
from helpers import build, co_learning, small_detector, small_paa
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.runner import BaseLoop
from resumable_runs import Handler, Run, config
from stacks import LAYOUT
from view_runs import pretraining

HINT = dict(type="HintDistillation", student="neck", teacher="neck")


class Loop(BaseLoop):
    def __init__(self):
        pass

    def run(self):
        pass


def load(model, checkpoint, training=False, classes=None, **settings):
    """Give the hook a checkpoint, for a test on data of these classes; returns its warnings."""
    logger = logging.Logger("fit")
    handler = Handler()
    logger.addHandler(handler)
    runner = SimpleNamespace(
        _resume=False,
        _train_loop=Loop() if training else None,
        _load_from="a.pth",
        cfg=Config(settings),
        model=model,
        logger=logger,
        test_loop=SimpleNamespace(
            dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes)))
        ),
    )
    CheckpointFitHook().after_load_checkpoint(runner, copy.deepcopy(checkpoint))
    return [line for level, line in handler.lines if level == "WARNING"]


def saved(config, **more):
    return dict(state_dict=build(config).state_dict(), meta={}, **more)


def distillation(tmp_path, student=None, **settings):
    teacher = build(small_paa(base=16))
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / "teacher.pth")
    return ConfigDict(
        type="DistillationDetector",
        student=student or small_paa(),
        teacher=dict(small_paa(base=16), checkpoint=str(tmp_path / "teacher.pth")),
        methods=[HINT],
        **settings,
    )


RCNN = small_detector("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
MISFITS = [
    (
        small_paa(num_classes=5),
        small_paa(),
        "number of classes: bbox_head.atss_cls.weight (5, 32, 3, 3) for (3, 32",
    ),
    (small_paa(base=16), small_paa(), "another architecture or number of classes: backbone.conv1.weight"),
    (RCNN, small_paa(), "number of classes: neck.lateral_convs.0.conv.weight"),
    (
        small_detector("mmdet::atss/atss_r50_fpn_1x_coco.py"),
        small_detector("mmdet::tood/tood_r50_fpn_1x_coco.py"),
        "keys are missing (bbox_head.",
    ),
]


@pytest.mark.parametrize(("other", "own", "says"), MISFITS, ids=[row[2][:45] for row in MISFITS])
@pytest.mark.parametrize("training", [False, True])
def test_checkpoint_of_another_detector_is_refused_with_a_way_out(other, own, says, training):
    with pytest.raises(CheckpointError) as caught:
        load(build(own), saved(other), training)
    message = str(caught.value)
    assert message.startswith("load_from: checkpoint a.pth" if training else "test: checkpoint a.pth")
    assert says in message
    assert message.endswith("trained with, or load what fits with load_strict=False.")
    assert "\n" not in message
    (warning,) = load(build(own), saved(other), training, load_strict=False)
    assert "keys are loaded. Not loaded: " in warning


@pytest.mark.parametrize("prefix", ["architecture.", "model.", "teacher.module."])
@pytest.mark.parametrize("settings", [{}, dict(load_strict=False)])
def test_checkpoint_of_which_no_key_fits_is_refused_always(prefix, settings):
    state = {prefix + key: value for key, value in build(small_paa()).state_dict().items()}
    with pytest.raises(CheckpointError, match=f"no key fits .it has {prefix}backbone.conv1.weight"):
        load(build(small_paa()), dict(state_dict=state), **settings)


@pytest.mark.parametrize("training", [False, True])
def test_own_checkpoint_passes_in_silence_also_bare_and_of_ddp(training):
    checkpoint = saved(small_paa())
    state = checkpoint["state_dict"]
    for content in (
        checkpoint,
        state,
        dict(state_dict={f"module.{key}": value for key, value in state.items()}),
    ):
        assert load(build(small_paa(), seed=1), content, training) == []


def test_student_is_tested_with_its_distillations_checkpoint(tmp_path):
    state = MODELS.build(distillation(tmp_path)).state_dict()
    assert any(key.startswith("distillation.") for key in state)
    assert load(build(small_paa()), dict(state_dict=state)) == []
    averaged = dict(state_dict=state, ema_state_dict={f"module.{key}": value for key, value in state.items()})
    assert load(build(small_paa()), averaged) == []
    old = {**build(small_paa()).state_dict(), "ema_backbone_conv1_weight": torch.zeros(1)}
    assert load(build(small_paa()), dict(state_dict=old)) == []


def test_distillation_starts_from_a_plain_detector_and_lists_its_adapters(tmp_path):
    (warning,) = load(MODELS.build(distillation(tmp_path)), saved(small_paa()), training=True)
    assert "that the checkpoint lacks (distillation.HintDistillation." in warning
    with pytest.raises(
        CheckpointError, match=r"number of classes: bbox_head.atss_cls.weight \(5, 32, 3, 3\)"
    ):
        load(MODELS.build(distillation(tmp_path)), saved(small_paa(num_classes=5)), training=True)


def test_distillation_starts_from_one_with_other_adapters(tmp_path):
    other = MODELS.build(distillation(tmp_path)).state_dict()
    for key in [key for key in other if key.startswith("distillation.")]:
        other[key] = torch.zeros(3, 7)
    (warning,) = load(MODELS.build(distillation(tmp_path)), dict(state_dict=other), training=True)
    assert "of another shape (distillation.HintDistillation." in warning


def test_networks_that_learn_together_need_each_of_them_unless_told_otherwise():
    switch = dict(type="StdMeanSwitch")
    model = MODELS.build(co_learning(dict(a=small_paa(), b=small_paa()), switch))
    assert load(model, dict(state_dict=model.state_dict()), training=True) == []
    with pytest.raises(
        CheckpointError, match=r"keys are missing \(distillation.networks.b.backbone.conv1.weight"
    ):
        load(model, saved(small_paa()), training=True)
    (warning,) = load(model, saved(small_paa()), training=True, load_strict=False)
    assert "that the checkpoint lacks (distillation.networks.b." in warning
    # The deployed one is tested alone.
    assert load(build(small_paa()), dict(state_dict=model.state_dict())) == []


def test_snapshot_of_another_run_is_passed_over():
    settings = dict(student=small_paa(), teachers=dict(before=dict(snapshot_of="student")), methods=[HINT])
    model = MODELS.build(ConfigDict(type="DistillationDetector", **settings))
    model.take_missing_snapshots()
    state = model.state_dict()
    assert any(key.startswith("distillation.snapshots.") for key in state)
    fresh = MODELS.build(ConfigDict(type="DistillationDetector", **settings))
    assert load(fresh, dict(state_dict=state), training=True) == []
    assert fresh.teachers["before"].taken_in_epoch is None, "comparing loads nothing"


def test_test_time_augmentation_is_looked_through():
    model = MODELS.build(dict(type="DetTTAModel", module=small_paa(), tta_cfg=dict(max_per_img=10)))
    assert load(model, saved(small_paa())) == []
    with pytest.raises(CheckpointError, match="number of classes"):
        load(model, saved(small_paa(num_classes=5)))


def test_load_strict_of_another_type_is_one_line():
    with pytest.raises(ConfigError, match="load_strict must be True or False, got 'no'"):
        load(build(small_paa()), saved(small_paa()), load_strict="no")


def test_training_from_a_checkpoint_in_part(tmp_path, monkeypatch):
    """The whole way: MMEngine's runner, with averaged weights, loads what fits and trains."""
    monkeypatch.setattr(LAYOUT, lambda text, **_: (text, True))
    Run(config(), tmp_path / "old").train()
    cfg = config(model__extra=True, custom_hooks=[dict(type="TraceHook"), dict(type="EMAHook")])
    run = Run(cfg, tmp_path / "new")
    run.runner._load_from = str(tmp_path / "old/epoch_1.pth")
    with pytest.raises(CheckpointError, match=r"2 keys are missing \(adapter.weight, adapter.bias\)"):
        run.train()
    cfg.load_strict = False
    run = Run(cfg, tmp_path / "partly")
    run.runner._load_from = str(tmp_path / "old/epoch_1.pth")
    run.train()
    assert any("2 that the checkpoint lacks (adapter.weight, adapter.bias)" in line for _, line in run.lines)


@pytest.mark.parametrize(
    ("trained", "tested"),
    [
        (("a", "b", "c"), ("b", "a", "c")),
        (("a", "b", "c"), ["a", "c", "b"]),
        (["c", "b", "a"], ("a", "b", "c")),
    ],
)
def test_test_data_with_the_classes_in_another_order_are_refused(trained, tested):
    checkpoint = dict(
        state_dict=build(small_paa()).state_dict(), meta=dict(dataset_meta=dict(classes=trained))
    )
    with pytest.raises(CheckpointError, match=r"label \d is '.' for it and '.' in the test data"):
        load(build(small_paa()), checkpoint, classes=tested)
    # A training may start from it.
    assert load(build(small_paa()), checkpoint, training=True, classes=tested) == []


@pytest.mark.parametrize(
    "meta",
    [
        dict(CLASSES=("b", "a", "c")),
        dict(CLASSES=["b", "a", "c"], PALETTE=[(1, 2, 3)], config="model = 1"),
        dict(dataset_meta=dict(CLASSES=("b", "a", "c"))),
        dict(dataset_meta=None, CLASSES=("b", "a", "c")),
    ],
)
def test_classes_of_older_checkpoints_are_compared_too(meta):
    checkpoint = dict(state_dict=build(small_paa()).state_dict(), meta=meta)
    with pytest.raises(CheckpointError, match=r"label 0 is 'b' for it and 'a' in the test data"):
        load(build(small_paa()), checkpoint, classes=("a", "b", "c"))
    assert load(build(small_paa()), checkpoint, classes=("b", "a", "c")) == []


@pytest.mark.parametrize("meta", [dict(CLASSES=None), dict(CLASSES="cat"), dict(dataset_meta=3), None, []])
def test_checkpoints_that_name_no_classes_are_loaded(meta):
    checkpoint = dict(state_dict=build(small_paa()).state_dict(), meta=meta)
    assert load(build(small_paa()), checkpoint, classes=("a", "b", "c")) == []


def test_test_data_with_other_names_of_the_classes_are_a_warning():
    meta = dict(dataset_meta=dict(classes=("aeroplane", "b", "c")))
    checkpoint = dict(state_dict=build(small_paa()).state_dict(), meta=meta)
    (line,) = load(build(small_paa()), checkpoint, classes=("airplane", "b", "c"))
    assert "label 0 is 'aeroplane' for it and 'airplane' in the test data" in line
    assert load(build(small_paa()), checkpoint, classes=("aeroplane", "b", "c")) == []
    assert load(build(small_paa()), dict(checkpoint, meta={}), classes=("airplane", "b", "c")) == []


def test_training_starts_from_a_pretraining_and_keeps_its_own_heads():
    checkpoint = dict(state_dict=pretraining().state_dict())
    (warning,) = load(build(small_paa()), checkpoint, training=True)
    assert "bbox_head" in warning
    assert "backbone" not in warning


@pytest.mark.parametrize(
    "own", [small_paa(base=16), small_paa() | dict(neck=None)], ids=["other width", "no neck"]
)
def test_pretraining_of_another_backbone_or_without_the_neck_is_refused(own):
    checkpoint = dict(state_dict=pretraining(own).state_dict())
    with pytest.raises(CheckpointError, match=r"backbone\.conv1|neck\."):
        load(build(small_paa()), checkpoint, training=True)


def test_backbone_with_other_names_is_refused():
    state = {key.replace("backbone.", "trunk."): value for key, value in pretraining().state_dict().items()}
    with pytest.raises(CheckpointError, match=r"missing \(backbone\."):
        load(build(small_paa()), dict(state_dict=state), training=True)


def test_test_of_a_pretraining_is_refused():
    with pytest.raises(CheckpointError, match=r"missing \(bbox_head"):
        load(build(small_paa()), dict(state_dict=pretraining().state_dict()))
