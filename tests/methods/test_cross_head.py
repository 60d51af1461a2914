"""CrossKD: the student's features finish the teacher's head."""

from types import SimpleNamespace

from lad.errors import ConfigError, UnsupportedError
from lad.exchange.labels import reading_labels
from lad.methods import CrossHeadDistillation, Step
from lad.methods.response.cross_head import align_statistics, before_activation
from lad.methods.response.dense import SCALE_FREE, boxes_about_origin

import pytest
import torch
import torch.nn.functional as F
from dense_detectors import dense, distil, flat, outputs_of
from helpers import build, fake_cuda, make_batch
from mmdet.models.losses import DIoULoss
from mmdet.structures.bbox import bbox_overlaps

CROSS = dict(type="CrossHeadDistillation")
BATCH = ((3, 0, 4), (64, 96))
FAMILIES = ("retinanet", "fcos", "atss", "paa", "gfl")
#: With all convolutions the student's, and with one of the teacher's; the others where time is no matter.
DAILY = (("gfl", 1), ("fcos", 2))


def batch():
    return make_batch(BATCH[0], size=BATCH[1])


def towers(family, convs=2, **bbox_head):
    return dense(family, stacked_convs=convs, **bbox_head)


def watched(model):
    """What the teacher's head makes of the student's features, and the labels."""
    seen = SimpleNamespace(cross=None, labels=None)
    method = model.methods[0]
    cross_predictions, labels = method.cross_predictions, method.labels

    def run(step):
        seen.cross = cross_predictions(step)
        return seen.cross

    def read(step):
        seen.labels = labels(step)
        return seen.labels

    method.cross_predictions, method.labels = run, read
    return seen


@pytest.mark.parametrize(
    ("family", "depth"),
    [
        pytest.param(family, depth, marks=[] if (family, depth) in DAILY else [pytest.mark.slow])
        for family in FAMILIES
        for depth in (1, 2)
    ],
)
def test_with_the_teachers_weights_the_cross_head_predictions_are_the_teachers(family, depth, tmp_path):
    model = distil(tmp_path, [dict(CROSS, depth=depth)], towers(family), seed=0)
    seen = watched(model)
    inputs, samples = batch()
    losses = model.loss(inputs, samples)
    with torch.no_grad():
        taught = outputs_of(model.teacher.model, inputs)
    for cross, own in zip(seen.cross, taught, strict=True):
        for pair in zip(cross, own, strict=True):
            torch.testing.assert_close(*(value.detach() for value in pair), rtol=1e-3, atol=1e-3)
    reference = distil(tmp_path, [dict(CROSS, depth=depth)], towers(family), seed=1).loss(inputs, samples)
    for name in ("loss_cross_cls", "loss_cross_bbox"):
        assert losses[name] < 1e-3 * reference[name]
    assert ("loss_cross_centerness" in losses) == (family in ("atss", "paa"))


def test_without_alignment_they_are_the_rest_of_the_teachers_head_on_the_students_features(tmp_path):
    model = distil(tmp_path, [dict(CROSS, align=False)], towers("retinanet", convs=3))
    assert model.methods[0].depth == 2  # all but the last
    seen = watched(model)
    inputs, samples = batch()
    model.loss(inputs, samples)
    own, taught = model.student.bbox_head, model.teacher.model.bbox_head
    with torch.no_grad():
        for level, features in enumerate(model.student.extract_feat(inputs)):
            for tower, last, found in (
                ("cls_convs", taught.retina_cls, seen.cross[0]),
                ("reg_convs", taught.retina_reg, seen.cross[1]),
            ):
                value = features
                for conv in getattr(own, tower)[:2]:
                    value = conv(value)
                value = last(getattr(taught, tower)[2](value))
                torch.testing.assert_close(found[level].detach(), value)


def aligned_by_hand(own, taught):
    """Feature maps of one level with the teacher's mean and deviation in each channel."""
    columns = [value.transpose(0, 1).flatten(1) for value in (own, taught)]
    (std, mean), (taught_std, taught_mean) = (torch.std_mean(c, 1, correction=0) for c in columns)
    shape = (1, -1, 1, 1)
    scaled = (own - mean.view(shape)) / std.view(shape).clamp(min=1e-6)
    return scaled * taught_std.view(shape) + taught_mean.view(shape)


@pytest.mark.parametrize("feature", ["activated", "raw"])
def test_features_are_aligned_after_or_before_their_activation_and_rectified(feature, tmp_path):
    settings = (
        {} if feature == "activated" else dict(feature=feature)
    )  # what the authors' code does by default
    model = distil(tmp_path, [dict(CROSS, **settings)], towers("retinanet", convs=2))
    seen = watched(model)
    inputs, samples = batch()
    model.loss(inputs, samples)
    heads = [model.student.bbox_head, model.teacher.model.bbox_head]
    last = dict(cls_convs=heads[1].retina_cls, reg_convs=heads[1].retina_reg)
    with torch.no_grad():
        maps = [net.extract_feat(inputs) for net in (model.student, model.teacher.model)]
        for found, (tower, end) in zip(seen.cross, last.items(), strict=True):
            for level, pair in enumerate(zip(*maps, strict=True)):
                convs = [getattr(head, tower) for head in heads]
                pair = [
                    conv[0](value, activate=feature == "activated")
                    for conv, value in zip(convs, pair, strict=True)
                ]
                expected = end(convs[1][1](aligned_by_hand(*pair).relu()))
                torch.testing.assert_close(found[level].detach(), expected, rtol=1e-4, atol=1e-4)


def test_aligned_activated_features_are_not_the_raw_ones(tmp_path):
    losses = [
        distil(tmp_path, [dict(CROSS, feature=feature)], towers("gfl")).loss(*batch())
        for feature in ("activated", "raw")
    ]
    for name in ("loss_cross_cls", "loss_cross_bbox"):
        assert not torch.allclose(losses[0][name], losses[1][name], rtol=1e-3)


def test_activated_features_need_a_relu(tmp_path):
    model = distil(tmp_path, [CROSS], towers("atss"))
    model.student.bbox_head.reg_convs[0].activate = torch.nn.SiLU()
    with pytest.raises(UnsupportedError, match="ATSSHead's towers have SiLU; set feature='raw', or use ReLU"):
        CrossHeadDistillation().bind(model.student, model.teacher)
    CrossHeadDistillation(feature="raw").bind(model.student, model.teacher)


def test_losses_of_gfl_are_the_formulas(tmp_path):
    model = distil(tmp_path, [CROSS], towers("gfl"))
    seen = watched(model)
    inputs, samples = batch()
    losses = model.loss(inputs, samples)
    with torch.no_grad():
        taught = outputs_of(model.teacher.model, inputs)
    p, q = flat(seen.cross[0], 3).sigmoid(), flat(taught[0], 3).sigmoid()
    num_pos = seen.labels.positive.flatten(1).sum(1).clamp(min=1).sum()  # at least one an image
    qfl = (q - p).abs() * F.binary_cross_entropy(p, q, reduction="none")
    torch.testing.assert_close(losses["loss_cross_cls"], qfl.sum() / num_pos, rtol=1e-4, atol=1e-6)
    s, t = (flat(levels, 68).unflatten(2, (4, 17)) for levels in (seen.cross[1], taught[1]))
    kl = (t.softmax(3) * (t.log_softmax(3) - s.log_softmax(3))).sum(3).mean(2)
    sure = q.amax(2)
    expected = 4 * (sure * kl).sum() / sure.sum()
    torch.testing.assert_close(losses["loss_cross_bbox"], expected, rtol=1e-4, atol=1e-6)


def test_losses_of_atss_are_the_formulas_and_near_misses_take_no_part(tmp_path):
    model = distil(tmp_path, [CROSS], towers("atss"))
    seen = watched(model)
    inputs, samples = batch()
    losses = model.loss(inputs, samples)
    with torch.no_grad():
        taught = outputs_of(model.teacher.model, inputs)
    head = model.student.bbox_head
    sizes = [level.shape[-2:] for level in taught[0]]
    anchors = torch.cat(head.prior_generator.grid_priors(sizes, device="cpu")).repeat(3, 1)
    num_pos, sure = (
        seen.labels.positive.flatten(1).sum(1).clamp(min=1).sum(),
        flat(taught[0], 3).sigmoid().amax(2).flatten(),
    )
    boxes = [head.bbox_coder.decode(anchors, flat(o[1], 4).flatten(0, 1)) for o in (seen.cross, taught)]
    giou = 1 - bbox_overlaps(*boxes, mode="giou", is_aligned=True)
    expected = (sure * giou).sum() / num_pos
    torch.testing.assert_close(losses["loss_cross_bbox"], expected, rtol=1e-3, atol=1e-5)
    p, q = (flat(o[2], 1)[..., 0][seen.labels.positive].sigmoid() for o in (seen.cross, taught))
    expected = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum() / num_pos
    torch.testing.assert_close(losses["loss_cross_centerness"], expected, rtol=1e-3, atol=1e-6)


def test_gradient_passes_through_the_frozen_head_to_the_students_towers_and_not_to_its_last_layers(tmp_path):
    model = distil(tmp_path, [CROSS], towers("gfl", convs=3))
    losses = model.loss(*batch())
    (losses["loss_cross_cls"] + losses["loss_cross_bbox"]).backward()
    head = model.student.bbox_head
    reached = {name for name, p in head.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.split(".")[0] for name in reached} == {"cls_convs", "reg_convs"}
    assert {name.split(".")[1] for name in reached} == {"0", "1"}
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.model.parameters())


def test_one_step_brings_the_student_nearer(tmp_path):
    model = distil(tmp_path, [CROSS], towers("retinanet"))
    names = ("loss_cross_cls", "loss_cross_bbox")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    first = sum(model.loss(*batch())[name] for name in names)
    first.backward()
    optimizer.step()
    assert sum(model.loss(*batch())[name] for name in names) < first


def test_the_students_own_losses_stay_as_they_are(tmp_path):
    zero = dict(loss_cls=dict(type="QualityKDLoss", loss_weight=0.0), centerness_weight=0.0)
    model = distil(
        tmp_path, [dict(CROSS, **zero, loss_bbox=dict(type="GIoULoss", loss_weight=0.0))], towers("atss")
    )
    losses = model.loss(*batch())
    plain = build(towers("atss")).eval()
    plain.training = plain.bbox_head.training = True
    for name in ("loss_cross_cls", "loss_cross_bbox", "loss_cross_centerness"):
        assert losses.pop(name) == 0
    torch.testing.assert_close(losses, plain.loss(*batch()))


def test_a_connector_leads_from_the_students_channels_to_the_teachers(tmp_path):
    student, teacher = towers("atss", feat_channels=64), towers("atss")
    with pytest.raises(
        UnsupportedError, match=r"64 channels after convolution 1 and the teacher's 32; set connector="
    ):
        distil(tmp_path, [CROSS], student, teacher)
    model = distil(tmp_path, [dict(CROSS, connector=dict(type="ConvConnector"))], student, teacher)
    losses = model.loss(*batch())
    sum(losses[name] for name in losses if "cross" in name).backward()
    own = dict(model.named_parameters())
    connectors = {name for name in own if name.startswith("distillation.")}
    assert len(connectors) == 4
    assert all(own[name].grad.abs().sum() > 0 for name in connectors)


def test_another_family_and_other_classes_may_teach(tmp_path):
    model = distil(tmp_path, [CROSS], towers("gfl"), towers("atss", num_classes=5))
    (method,), seen = model.methods, {}
    own_losses = method.losses
    method.losses = lambda step: seen.update(step=step) or own_losses(step)
    losses = model.loss(*batch())
    step = seen["step"]
    cross, taught = method.cross_predictions(step)[0], step.teacher.target("bbox_head")[0][0]
    logits, target = (torch.cat([level.flatten() for level in levels]) for levels in (cross, taught))
    assert len(logits) == 5 * method.labels(step).labels.numel()
    quality = target.sigmoid()
    elements = torch.nn.functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    expected = ((quality - logits.sigmoid()).abs() * elements).sum() / method.labels(step).avg_factor
    torch.testing.assert_close(losses["loss_cross_cls"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        ("tood", "tood", {}, r"does not fit student TOOD \(TOODHead\); it works with the heads of RetinaNet"),
        ("atss", "atss", dict(depth=3), "depth must be between 1 and 2"),
        ("atss", "atss", dict(feature="relu"), "feature must be one of activated, raw, got 'relu'"),
        (
            "atss",
            "atss",
            dict(loss_bbox=dict(type="LDLoss")),
            "edge distributions, which the teacher's ATSSHead",
        ),
        (
            "retinanet",
            "retinanet",
            dict(loss_bbox=dict(type="DIoULoss")),
            "DIoULoss depends on the shape of a prior.*use IoULoss, GIoULoss or, for GFL, LDLoss",
        ),
        ("atss", "atss", dict(loss_cls=dict(type="DKDLoss")), "DKDLoss needs labels"),
        ("atss", "atss", dict(loss_cls=dict(type="FocalKLLoss")), "FocalKLLoss does not compare"),
        ("atss", "retinanet", {}, "compares two heads prior by prior"),
        ("atss", "atss", dict(student_loss=False), "needs the labels of the student's own loss"),
    ],
)
def test_what_cannot_work_is_refused_when_built(student, teacher, settings, message, tmp_path):
    settings = dict(settings)
    extra = {key: settings.pop(key) for key in ("student_loss",) if key in settings}
    with pytest.raises((UnsupportedError, ConfigError), match=message):
        distil(tmp_path, [dict(CROSS, **settings)], towers(student), towers(teacher), **extra)


def test_aligned_features_have_the_teachers_mean_and_deviation_and_equals_stay():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 4, 5, generator=generator) * 7 + 2
    teacher = torch.randn(2, 3, 6, 6, generator=generator) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    aligned = align_statistics(student, teacher)
    for moment in (torch.mean, lambda value, dim: torch.std(value, dim, correction=0)):
        torch.testing.assert_close(
            moment(aligned, dim=(0, 2, 3)), moment(teacher, dim=(0, 2, 3)), rtol=1e-3, atol=1e-4
        )
    torch.testing.assert_close(align_statistics(student, student), student)
    # A map of one cell has no deviation, and none is made up.
    lone = align_statistics(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))
    assert torch.equal(lone, torch.zeros(1, 3, 1, 1))
    # The features of a head that has just begun are small.
    faint = align_statistics(student / 7000, teacher)
    torch.testing.assert_close(faint.std(dim=(0, 2, 3)), teacher.std(dim=(0, 2, 3)), rtol=2e-2, atol=0)


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_boxes_about_the_origin_overlap_as_in_the_image(family):
    head = build(dense(family)).bbox_head
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 6), (2, 3)]
    anchors = 9 if family == "retinanet" else 1
    scale = 0.3 if family == "retinanet" else 1.0
    pair = [
        [torch.randn(2, 4 * anchors, *size, generator=generator) * scale for size in sizes] for _ in range(2)
    ]
    if family == "fcos":  # distances in pixels
        pair = [[level.exp() * 16 for level in levels] for levels in pair]
    priors = torch.cat(head.prior_generator.grid_priors([*sizes, (1, 2), (1, 1), (1, 1)], device="cpu")[:2])
    there = [head.bbox_coder.decode(priors.repeat(2, 1), flat(levels, 4).flatten(0, 1)) for levels in pair]
    here = [boxes_about_origin(head, levels) for levels in pair]
    for kind in SCALE_FREE:
        loss = kind(reduction="none")
        torch.testing.assert_close(loss(*here), loss(*there), rtol=1e-3, atol=1e-4)
    if family == "retinanet":  # anchors that are no squares: why the others are refused
        loss = DIoULoss(reduction="none")
        assert not torch.allclose(loss(*here), loss(*there), rtol=1e-2, atol=1e-2)


def test_losses_on_cuda_inputs_do_not_wait():
    method, real = CrossHeadDistillation(), build(towers("atss"))
    method.bind(real, SimpleNamespace(model=real))  # compares anchors, before training
    with fake_cuda():
        with torch.device("cuda"):
            model = build(towers("atss")).train()
        before_activation(model.bbox_head, method.depth)
        teacher = SimpleNamespace(model=model)
        sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
        features = [torch.randn(2, 32, *size, device="cuda", requires_grad=True) for size in sizes]
        outputs = model.bbox_head(tuple(features))
        cls_name, reg_name, _ = method.student_modules
        calls = {cls_name: features, reg_name: features, "bbox_head": [outputs]}

        class Outputs(dict):
            def calls(self, name):
                return calls[name]

        teacher.target = calls.__getitem__
        teacher.forward_through = lambda function, *args: function(model, *args)
        step = Step(
            None, None, SimpleNamespace(bbox_head=model.bbox_head), teacher, Outputs(bbox_head=outputs)
        )
        with reading_labels(model.bbox_head) as reader:
            for height, width in sizes:
                labels = torch.zeros(2 * height * width, dtype=torch.long, device="cuda")
                reader.hook(
                    model.bbox_head.loss_cls, (None, labels, labels.float() + 1), dict(avg_factor=1.0)
                )
        step.observations[method] = reader
        assert all(value.device.type == "cuda" for value in method.losses(step).values())
