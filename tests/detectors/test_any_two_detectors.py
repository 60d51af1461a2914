"""Feature distillation between detectors of different families: modules are matched by the shapes that they put out."""

from lad.base.config import detector_config
from lad.errors import ConfigError

import pytest
import torch
from helpers import build, make_batch, save_checkpoint, small_detector
from mmdet.registry import MODELS
from seam_detectors import small

FCOS = "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"
RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
FASTER_RCNN = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
SWIN = "mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py"


def detector(name):
    """A small detector of a family; the Swin's stages have 16, 32, 64 and 128 channels, its neck 24."""
    if name == "rtmdet":
        return small("rtmdet", base=16)
    if name != SWIN:
        return small_detector(name)
    thin = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], init_cfg=None)
    return detector_config(
        dict(
            config=SWIN,
            backbone=thin,
            neck=dict(in_channels=[32, 64, 128], out_channels=24),
            bbox_head=dict(in_channels=24, feat_channels=24, num_classes=3, stacked_convs=1),
        ),
        "teacher",
    )


def distil(own, taught, folder, **method):
    config = detector(taught)
    path = save_checkpoint(build(config, seed=1), folder / "teacher.pth")
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=detector(own),
            teacher=dict(config, checkpoint=path),
            methods=[dict(type="FeatureDistillation", **method)],
        )
    )
    model.student.load_state_dict(build(detector(own)).state_dict())
    return model.train()


PAIRS = [
    # A neck of 32 channels with one of 32.
    (RETINANET, FCOS, {}, (32, 32)),
    # With one of 24.
    (FCOS, SWIN, {}, (32, 24)),
    pytest.param(SWIN, FASTER_RCNN, {}, (24, 32), marks=pytest.mark.slow),
    # A ResNet's stage with a Swin's of the same stride, whose channels come last inside.
    (RETINANET, SWIN, dict(student="backbone.layer3", teacher="backbone[1]"), (32, 64)),
    # Sequences of tokens on one side alone.
    pytest.param(
        FASTER_RCNN,
        SWIN,
        dict(student="neck[0]", teacher="backbone.stages.1[0]"),
        (32, 64),
        marks=pytest.mark.slow,
    ),
    # Another stride: 8 of the student, 16 of the teacher.
    pytest.param(
        FASTER_RCNN, "rtmdet", dict(student="neck[1]", teacher="neck[1]"), (32, 32), marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("student", "teacher", "method", "channels"), PAIRS)
def test_student_comes_nearer_to_a_teacher_of_another_family(tmp_path, student, teacher, method, channels):
    """A step against the gradient of the distillation's loss L: with a length of 0.001 L / |gradient| L falls by a
    thousandth, whatever the two are; gradients reach the connectors and the student's first layer."""
    model = distil(student, teacher, tmp_path, connector="projection", **method)
    feature = model.distillation.FeatureDistillation
    links = feature.links()
    assert links
    assert all(link.connector.endswith(f"{channels[0]} -> {channels[1]}") for link in links)
    batch = make_batch((2, 1), size=(64, 64))

    def loss():
        torch.manual_seed(0)  # a Swin leaves out paths at random
        return model.loss(*batch)[feature.loss_name]

    before = loss()
    before.backward()
    taught = [parameter for parameter in model.parameters() if parameter.grad is not None]
    reached = {id(parameter) for parameter in taught}
    assert reached.issuperset(id(parameter) for parameter in feature.parameters())
    assert next(model.student.backbone.parameters()).grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())
    with torch.no_grad():
        square = sum(parameter.grad.square().sum() for parameter in taught)
        for parameter in taught:
            parameter -= 1e-3 * before / square * parameter.grad
        after = loss()
    assert 1 - 1.5e-3 < after / before < 1 - 0.5e-3


def test_necks_of_different_depth_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"'neck' returns 5 .* and 'neck' 3 .*'neck\[0\]'"):
        distil(RETINANET, "rtmdet", tmp_path)


def test_name_that_one_of_them_has_not_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"no module 'backbone.layer3'; nearest: backbone"):
        distil(RETINANET, SWIN, tmp_path, student="backbone.layer3", teacher="backbone.layer3")
