"""Exits that are kept: plain truncated detectors that predict what the exit does, bit for bit."""

import copy

from lad.engine.plain_config import plain_config, standalone
from lad.errors import ConfigError, UnsupportedError
from lad.networks.plain_exit import truncated_backbone

import pytest
import torch
from dense_detectors import dense
from helpers import make_batch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from seam_detectors import set_epoch
from torch import nn

EARLY = dict(student=dict(early=dict(levels=[1])))
#: Levels of two exits of each family, and the prefixes of the weights that the first leaves out.
FAMILIES = {
    **dict.fromkeys(
        ("retinanet", "fcos", "atss", "gfl", "vfnet", "paa", "tood", "ddod"),
        ([1], [1, 2], ("backbone.layer3", "backbone.layer4")),
    ),
    **dict.fromkeys(("rtmdet", "yolox"), ([0], [0, 1], ("backbone.stage3", "backbone.stage4"))),
}


def distil(seed=0, **settings):
    """A detector of random weights, so that predictions differ from place to place."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(dict(type="DistillationDetector", keep_exits=True, **settings)))
        model.init_weights()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.1)
        for buffer in model.buffers():
            if buffer.is_floating_point() and buffer.dim() == 1:
                buffer.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_exit_is_a_plain_truncated_detector_that_predicts_bit_for_bit_the_same(family):
    set_epoch(100)
    early, late, left_out = FAMILIES[family]
    exits = dict(student=dict(early=dict(levels=early), late=dict(levels=late)))
    model = distil(student=dense(family), exits=exits).eval()
    state = model.state_dict()
    inputs, samples = make_batch((2, 3))
    for name in ("early", "late"):
        exit_ = model.learners[f"student.{name}"]
        plain = MODELS.build(copy.deepcopy(exit_.plain_config)).eval()
        own = model.exit_state(state, "student", name)
        missing, unexpected = plain.load_state_dict(own, strict=False)
        assert (missing, unexpected) == ([], [])
        for mine, other in zip(plain(inputs, mode="tensor"), exit_(inputs, mode="tensor"), strict=True):
            assert all(torch.equal(*levels) for levels in zip(mine, other, strict=True))
        found, expected = (each.predict(inputs, copy.deepcopy(samples)) for each in (plain, exit_))
        for mine, other in zip(found, expected, strict=True):
            assert torch.equal(mine.pred_instances.bboxes, other.pred_instances.bboxes)
            assert torch.equal(mine.pred_instances.scores, other.pred_instances.scores)
        if name == "early":
            assert not [key for key in own if key.startswith(left_out)]
    assert type(plain).__name__ == type(model.student).__name__


def test_deployed_network_has_the_plain_weights_and_predicts_bit_for_bit_as_plain():
    config = dense("retinanet")
    config.test_cfg.score_thr = 0.0
    model = distil(student=config, exits=EARLY, methods=[dict(type="SelfDistillation")]).eval()
    plain = MODELS.build(config).eval()
    deployed = model.network_state(model.state_dict(), "student")
    plain.load_state_dict(deployed)
    assert sum(map(torch.numel, deployed.values())) == sum(map(torch.numel, plain.state_dict().values()))
    inputs, samples = make_batch((2, 3))
    for mine, other in zip(
        plain.predict(inputs, copy.deepcopy(samples)),
        model.predict(inputs, copy.deepcopy(samples)),
        strict=True,
    ):
        assert len(mine.pred_instances)
        assert torch.equal(mine.pred_instances.bboxes, other.pred_instances.bboxes)
        assert torch.equal(mine.pred_instances.scores, other.pred_instances.scores)


def test_exits_of_a_peer_are_kept_too_with_the_peers_backbone():
    networks = dict(a=dense("retinanet"), b=dense("retinanet"))
    networks["b"].backbone.update(base_channels=16)
    networks["b"].neck.in_channels = [16, 32, 64, 128]
    model = distil(networks=networks, exits=dict(b=dict(early=dict(levels=[1]))))
    plain = MODELS.build(copy.deepcopy(model.learners["b.early"].plain_config))
    plain.load_state_dict(model.exit_state(model.state_dict(), "b", "early"))
    assert torch.equal(plain.backbone.conv1.weight, model.trained_networks["b"].backbone.conv1.weight)


def test_plain_config_names_nothing_of_this_package_and_keeps_the_rest(tmp_path):
    cfg = Config(
        dict(
            model=dict(type="DistillationDetector"),
            train_cfg=dict(max_epochs=3),
            default_hooks=dict(exits=dict(type="SaveExitsHook")),
            custom_hooks=[dict(type="SaveExitsHook")],
            custom_imports=dict(imports=["lad"]),
            resume=True,
        )
    )
    exit_ = distil(student=dense("paa"), exits=EARLY).learners["student.early"]
    path = tmp_path / "early.py"
    standalone(plain_config(cfg, exit_.plain_config)).dump(path)
    assert "lad" not in path.read_text().replace("scale", "")
    written = Config.fromfile(path)
    assert written.model.bbox_head.type == "PAAHead"
    assert written.train_cfg.max_epochs == 3
    assert written.resume is False


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(), dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,), frozen_stages=1)),
        (dict(frozen_stages=4), dict(frozen_stages=2)),
        (
            dict(
                dcn=dict(type="DCN", deform_groups=1, fallback_on_stride=False),
                stage_with_dcn=(False, True, True, True),
            ),
            dict(stage_with_dcn=(False, True)),
        ),
        (dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)), dict(strides=(1, 2), dilations=(1, 1))),
    ],
)
def test_resnet_loses_its_last_stages(settings, expected):
    config = ConfigDict(type="ResNet", depth=18, base_channels=8, frozen_stages=1)
    config.update(settings)
    if "dcn" in settings:
        config.depth = 50
    backbone = MODELS.build(copy.deepcopy(config))
    short = truncated_backbone(backbone, config, [1], "early")
    assert {key: short[key] for key in expected} == expected
    assert set(MODELS.build(copy.deepcopy(short)).state_dict()) < set(backbone.state_dict())
    assert config.get("num_stages") is None


def test_backbone_of_another_kind_keeps_its_stages_and_returns_fewer_maps():
    config = ConfigDict(type="MobileNetV2", widen_factor=0.25, out_indices=(1, 2, 4, 7))
    backbone = MODELS.build(copy.deepcopy(config))
    short = MODELS.build(truncated_backbone(backbone, config, [1], "early"))
    assert set(short.state_dict()) == set(backbone.state_dict())
    assert len(short(torch.zeros(2, 3, 64, 64))) == 1


def hrnet():
    config = dense("retinanet")
    stages = {
        f"stage{number}": dict(
            num_modules=1,
            num_branches=number,
            block="BOTTLENECK" if number == 1 else "BASIC",
            num_blocks=(1,) * number,
            num_channels=(8, 16, 32, 64)[:number],
        )
        for number in range(1, 5)
    }
    config.backbone = ConfigDict(type="HRNet", extra=stages)
    return config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(student=dense("retinanet"), exits={}), "keep_exits=True: there is no exit to keep; add exits"),
        (dict(student=hrnet(), exits=EARLY), "exit student.early: HRNet has no out_indices"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(settings, message):
    with pytest.raises((ConfigError, UnsupportedError), match=message) as refused:
        distil(**settings)
    assert "\n" not in str(refused.value)
