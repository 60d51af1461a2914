"""Soft-label distillation of PAA heads, alone and with label assignment (SoLAD)."""

import copy

from lad.errors import ConfigError, UnsupportedError
from lad.losses import focal_kl_loss
from lad.methods.response.soft_label import decode_within

import pytest
import torch
from helpers import build, fake_cuda, make_batch, save_checkpoint, small_paa
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData

LAD, SOFT = dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation", min_iou=0.1)


def distil(tmp_path, methods, teacher_config=None, teacher_seed=1, **settings):
    teacher_config = teacher_config or small_paa(base=16)
    path = save_checkpoint(build(teacher_config, teacher_seed), tmp_path / f"teacher_{teacher_seed}.pth")
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=small_paa(),
            teacher=dict(teacher_config, checkpoint=path),
            methods=copy.deepcopy(methods),
            **settings,
        )
    )
    model.student.load_state_dict(build(small_paa()).state_dict())
    return model.train()


def by_hand(model, inputs, samples, min_iou=0.1, min_score=None, temperature=1.0):
    """The three terms image by image and anchor by anchor, as the formulas are written.

    ``min_score``: weights are the teacher's scores, for anchors within their image.
    """
    head = model.student.bbox_head
    with torch.no_grad():
        own = model.student.bbox_head(model.student.extract_feat(inputs))
        taught = model.teacher.model.bbox_head(model.teacher.model.extract_feat(inputs))
        anchors = torch.cat(
            head.prior_generator.grid_priors([level.shape[-2:] for level in own[0]], device="cpu")
        )
        total = cls = box = iou = torch.zeros(())
        for image, sample in enumerate(samples):

            def flat(levels, channels, image=image):
                return torch.cat([level[image].permute(1, 2, 0).reshape(-1, channels) for level in levels])

            s_box = head.bbox_coder.decode(anchors, flat(own[1], 4), max_shape=sample.img_shape)
            t_box = head.bbox_coder.decode(anchors, flat(taught[1], 4), max_shape=sample.img_shape)
            own_logits, taught_logits = (flat(each[0], 3) / temperature for each in (own, taught))
            cls = cls + temperature**2 * focal_kl_loss(own_logits, taught_logits, 0.5).sum()
            gts = sample.gt_instances.bboxes
            scores = (flat(taught[0], 3).sigmoid().amax(1) * flat(taught[2], 1)[:, 0].sigmoid()).sqrt()
            for anchor in range(len(anchors)) if len(gts) or min_score is not None else []:
                if min_score is None:
                    weight, least = bbox_overlaps(t_box[anchor : anchor + 1], gts).max(), min_iou
                else:
                    weight, least = scores[anchor], min_score
                if weight > least:
                    total = total + weight
                    giou = bbox_overlaps(s_box[anchor : anchor + 1], t_box[anchor : anchor + 1], mode="giou")
                    box = box + weight * (1 - giou.squeeze())
                    pair = (flat(own[2], 1)[anchor], flat(taught[2], 1)[anchor])
                    iou = iou + focal_kl_loss(*pair, 0.5).sum()
    total = max(total, torch.tensor(float(len(samples))))
    return dict(
        loss_soft_cls=2.0 * cls / total, loss_soft_bbox=1.3 * box / total, loss_soft_iou=10.0 * iou / total
    )


@pytest.mark.parametrize("objects", [(3, 0, 7), (1, 1), (0, 0)])
def test_losses_equal_the_formulas_anchor_by_anchor(tmp_path, objects):
    model = distil(tmp_path, [SOFT]).eval()
    shapes = [(64, 96), (50, 96), (64, 70)][: len(objects)]  # of the images within the padded batch
    inputs, samples = make_batch(objects, size=(64, 96), shapes=shapes)
    model.student.training = True
    losses = model.loss(inputs, samples)
    for name, value in by_hand(model, inputs, samples).items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    assert (losses["loss_soft_bbox"] > 0) == any(objects)


def test_weights_of_the_teacher_are_its_scores_and_need_no_labels(tmp_path):
    soft = dict(type="SoftLabelDistillation", weights="teacher", min_score=0.05)
    model = distil(tmp_path, [soft], student_loss=False).eval()
    model.student.training = True
    inputs, samples = make_batch((3, 0), size=(64, 96))
    losses = model.loss(inputs, samples)
    for name, value in by_hand(model, inputs, samples, min_score=0.05).items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    assert all(losses[name] > 0 for name in ("loss_soft_bbox", "loss_soft_iou"))
    for sample in samples:
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    for name, value in model.loss(inputs, samples).items():
        assert torch.equal(value, losses[name])


def test_least_score_bounds_what_counts(tmp_path):
    soft = dict(type="SoftLabelDistillation", weights="teacher", min_score=0.99)
    losses = distil(tmp_path, [soft], student_loss=False).loss(*make_batch((3, 1)))
    assert losses["loss_soft_bbox"] == losses["loss_soft_iou"] == 0
    assert losses["loss_soft_cls"] > 0


def test_temperature_softens_class_logits_and_keeps_the_size_of_gradients(tmp_path):
    soft = dict(type="SoftLabelDistillation", weights="teacher", min_score=0.05, temperature=2.0)
    model = distil(tmp_path, [soft], student_loss=False)
    inputs, samples = make_batch((0, 0))
    found = model.loss(inputs, copy.deepcopy(samples))
    expected = by_hand(model, inputs, samples, min_score=0.05, temperature=2.0)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0, -1.0, True, "2"])
def test_other_temperatures_are_refused(tmp_path, temperature):
    with pytest.raises(ConfigError, match=r"temperature must be (positive|a number), got"):
        distil(tmp_path, [dict(SOFT, temperature=temperature)])


def test_other_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="weights must be 'labels' or 'teacher', got 'scores'"):
        distil(tmp_path, [dict(SOFT, weights="scores")])


def test_decoded_boxes_are_clipped_each_to_its_image_as_the_coder_clips_one():
    coder = build(small_paa()).bbox_head.bbox_coder
    generator = torch.Generator().manual_seed(0)
    anchors = torch.rand(2 * 40, 4, generator=generator) * 40
    anchors[:, 2:] += anchors[:, :2]
    deltas = torch.randn(2 * 40, 4, generator=generator) * 3
    shapes = [(30, 50), (60, 20)]
    expected_deltas, found_deltas = (deltas.clone().requires_grad_() for _ in range(2))
    expected = torch.cat(
        [
            coder.decode(*pair, max_shape=shape)
            for *pair, shape in zip(anchors.split(40), expected_deltas.split(40), shapes, strict=True)
        ]
    )
    found = decode_within(coder, anchors, found_deltas, [dict(img_shape=shape) for shape in shapes])
    torch.testing.assert_close(found, expected)
    for boxes in (found, expected):
        (boxes * torch.arange(80.0)[:, None]).sum().backward()
    torch.testing.assert_close(found_deltas.grad, expected_deltas.grad)
    assert (found_deltas.grad == 0).any()  # beyond the border there is none
    assert (found == 0).any()
    coder.clip_border = False
    assert (decode_within(coder, anchors, deltas, [dict(img_shape=shape) for shape in shapes]) < 0).any()


def test_composition_has_the_losses_of_its_parts(tmp_path):
    inputs, samples = make_batch()
    lad = distil(tmp_path, [LAD]).loss(inputs, samples)
    soft = distil(tmp_path, [SOFT]).loss(inputs, samples)
    both = distil(tmp_path, [LAD, SOFT]).loss(inputs, samples)
    assert list(both) == [*lad, *(name for name in soft if name.startswith("loss_soft"))]
    for name, value in both.items():
        torch.testing.assert_close(value, lad[name] if name in lad else soft[name], rtol=1e-6, atol=1e-6)


def test_teacher_runs_once_for_both_methods(tmp_path):
    model = distil(tmp_path, [LAD, SOFT])
    calls = []
    model.teacher.model.backbone.register_forward_hook(lambda *args: calls.append(1))
    model.loss(*make_batch())
    assert len(calls) == 1


def test_teacher_with_the_students_weights_teaches_nothing(tmp_path):
    model = distil(tmp_path, [SOFT], teacher_config=small_paa(), teacher_seed=0)
    model.student.eval()
    losses = model.loss(*make_batch())
    for name in ("loss_soft_cls", "loss_soft_bbox", "loss_soft_iou"):
        assert losses[name].item() == pytest.approx(0, abs=1e-5)


def test_gradients_reach_the_student_alone(tmp_path):
    model = distil(tmp_path, [SOFT], student_loss=False)
    sum(model.loss(*make_batch()).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_from_the_teacher_alone_needs_no_labels(tmp_path):
    model = distil(tmp_path, [SOFT], student_loss=False)
    inputs, samples = make_batch((0, 0))
    losses = model.loss(inputs, samples)
    assert set(losses) == {"loss_soft_cls", "loss_soft_bbox", "loss_soft_iou"}
    assert losses["loss_soft_cls"] > 0
    assert losses["loss_soft_bbox"] == losses["loss_soft_iou"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_training_brings_the_student_to_the_teacher(tmp_path):
    model = distil(tmp_path, [SOFT], student_loss=False)
    inputs, samples = make_batch((3, 2), size=(64, 64))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(30):
        optimizer.zero_grad()
        total = sum(model.loss(inputs, samples).values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]


def test_heads_without_an_iou_branch_are_refused_by_name(tmp_path):
    config = small_paa()
    config.type, config.bbox_head.type = "ATSS", "ATSSHead"
    for key in ("topk", "score_voting"):
        config.bbox_head.pop(key)
    with pytest.raises(
        UnsupportedError, match=r"student PAA \(BatchedPAAHead\) with teacher ATSS \(ATSSHead\)"
    ):
        distil(tmp_path, [SOFT], teacher_config=config)


def test_losses_on_cuda_inputs_do_not_wait():
    from lad.methods import SoftLabelDistillation, Step

    class Answer:
        def __init__(self, head, outputs):
            self.model = type("Model", (), dict(bbox_head=head))
            self.outputs = dict(bbox_head=outputs)

    with fake_cuda():
        with torch.device("cuda"):
            head = MODELS.build(small_paa()).bbox_head
        sizes = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
        outputs = [
            [torch.randn(2, channels, *size, device="cuda") for size in sizes] for channels in (3, 4, 1)
        ]
        _, samples = make_batch((3, 0))
        for sample in samples:
            count = len(sample.gt_instances)
            sample.gt_instances = InstanceData(bboxes=torch.rand(count, 4, device="cuda"))
        student = type("Model", (), dict(bbox_head=head))
        step = Step(None, samples, student, Answer(head, outputs), dict(bbox_head=outputs))
        losses = SoftLabelDistillation().losses(step)
        assert all(value.device.type == "cuda" for value in losses.values())


def test_feature_maps_of_other_sizes_are_named(tmp_path):
    finer = small_paa(base=16)
    finer.backbone.strides = (1, 1, 2, 2)
    model = distil(tmp_path, [SOFT], finer)
    with pytest.raises(UnsupportedError, match=r"the student has feature maps of .* and the teacher of "):
        model.loss(*make_batch((3, 2)))
