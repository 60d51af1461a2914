"""Logit distillation of the masks of RoI heads."""

from __future__ import annotations

import copy

from lad.errors import ConfigError, UnsupportedError
from lad.methods.roi.heads import mask_rois
from lad.methods.roi.masks import StageMasks, mask_heads, of_label

import pytest
import torch
import torch.nn.functional as F
from dense_detectors import dense
from helpers import build, make_batch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from two_stage_detectors import distil, random_teacher, seeded_loss, total, two_stage, with_masks

MASKS = dict(type="MaskLogitDistillation")
#: Everything that the detectors propose is near enough to an object for some positives.
BATCH = ((3, 2), (64, 96))


def batch(objects=BATCH[0]):
    inputs, samples = make_batch(objects, size=BATCH[1])
    return inputs, with_masks(samples)


def distil_masks(folder, method=MASKS, kind="mask", teacher=None, **settings):
    teacher = teacher or two_stage(kind, base=16)
    return distil(folder, [method], student=two_stage(kind), teacher=random_teacher(teacher), **settings)


def watched(model):
    """What the method compares, stage by stage."""
    seen = []
    compare = model.methods[0].compare

    def run(masks, taught):
        seen.append((masks, taught.clone()))
        return compare(masks, taught)

    model.methods[0].compare = run
    return seen


def test_mean_over_pixels_and_positives_of_the_objects_class(tmp_path):
    model = distil_masks(tmp_path, dict(MASKS, loss=dict(type="KDLoss", temperature=2.0)))
    seen = watched(model)
    losses = seeded_loss(model, *batch())
    [(masks, taught)] = seen
    assert len(masks.rois) >= 5, "each object is a proposal too"
    assert masks.logits.shape == taught.shape == (len(masks.rois), 3, 28, 28)
    expected = 0.0
    for own, other, label in zip(masks.logits, taught, masks.labels, strict=True):
        p, q = (value[label].double().div(2).sigmoid() for value in (own, other))
        expected += 4 * (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).mean()
    torch.testing.assert_close(
        losses["loss_mask_kd"].double(), expected / len(masks.rois), rtol=1e-3, atol=1e-6
    )


def test_proposals_and_labels_are_those_of_the_own_loss(tmp_path, monkeypatch):
    model = distil_masks(tmp_path)
    seen, called = watched(model), []
    loss_and_target = FCNMaskHead.loss_and_target

    def run(head, mask_preds, sampling_results, *args, **kwargs):
        called.append((mask_preds, sampling_results))
        return loss_and_target(head, mask_preds, sampling_results, *args, **kwargs)

    monkeypatch.setattr(FCNMaskHead, "loss_and_target", run)
    model.methods[0].bind(model.student, model.teacher)
    seeded_loss(model, *batch())
    [(masks, _)], [(mask_preds, results)] = seen, called
    assert masks.logits is mask_preds
    torch.testing.assert_close(masks.rois[:, 1:], torch.cat([result.pos_priors for result in results]))
    counts = [len(result.pos_priors) for result in results]
    assert masks.rois[:, 0].tolist() == [0.0] * counts[0] + [1.0] * counts[1]
    assert masks.labels.tolist() == [int(label) for result in results for label in result.pos_gt_labels]


def test_teachers_masks_are_its_own_of_these_boxes(tmp_path):
    model = distil_masks(tmp_path)
    seen = watched(model)
    inputs, samples = batch()
    seeded_loss(model, inputs, samples)
    [(masks, taught)] = seen
    teacher = model.teacher.model
    with torch.no_grad():
        wanted = teacher.roi_head._mask_forward(teacher.extract_feat(inputs), masks.rois)["mask_preds"]
    torch.testing.assert_close(taught, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mask", "cascade_mask"])
def test_teacher_with_the_students_weights_gives_no_loss_and_own_losses_stay(kind, tmp_path):
    config = two_stage(kind)
    network = build(config, 0)
    network.own_config = config
    # Both with the batch norm of inference.
    model = distil(tmp_path, [MASKS], student=config, teacher=network).eval()
    losses = seeded_loss(model, *batch())
    plain = seeded_loss(model.student, *batch())
    names = {"loss_mask_kd"} if kind == "mask" else {f"s{number}.loss_mask_kd" for number in range(3)}
    assert losses.keys() - plain.keys() == names
    torch.testing.assert_close({name: losses[name] for name in plain}, plain)
    assert all(losses[name] < 1e-6 for name in names)


def test_stages_of_a_cascade_have_their_weights(tmp_path):
    model = distil_masks(tmp_path, kind="cascade_mask")
    seen = watched(model)
    losses = seeded_loss(model, *batch())
    assert [masks.number for masks, _ in seen] == [0, 1, 2]
    for number, (masks, taught) in enumerate(seen):
        own, other = (of_label(value, masks.labels) for value in (masks.logits, taught))
        wanted = F.binary_cross_entropy_with_logits(own, other.sigmoid())
        wanted -= F.binary_cross_entropy_with_logits(other, other.sigmoid())
        torch.testing.assert_close(
            losses[f"s{number}.loss_mask_kd"], (1.0, 0.5, 0.25)[number] * wanted, rtol=1e-3, atol=1e-6
        )


def test_one_step_brings_the_masks_nearer_and_leaves_the_teacher_alone(tmp_path):
    model = distil_masks(tmp_path)
    inputs, samples = batch()
    first = seeded_loss(model, inputs, samples)["loss_mask_kd"]
    first.backward()
    reached = {
        name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }
    assert any(name.startswith("roi_head.mask_head.") for name in reached)
    assert any(name.startswith("backbone.") for name in reached)
    assert not any(name.startswith(("roi_head.bbox_head.", "rpn_head.")) for name in reached)
    assert all(value.grad is None for value in model.teacher.model.parameters())
    torch.optim.SGD(mask_heads(model.student)[0].parameters(), lr=1e-2).step()
    assert seeded_loss(model, inputs, samples)["loss_mask_kd"] < first


def test_with_a_weight_of_zero_it_is_plain_training(tmp_path):
    model = distil_masks(tmp_path, dict(MASKS, loss=dict(type="KDLoss", loss_weight=0.0)))
    losses = seeded_loss(model, *batch())
    assert losses.pop("loss_mask_kd") == 0
    torch.testing.assert_close(losses, seeded_loss(model.student, *batch()))


@pytest.mark.parametrize("kind", ["mask", "cascade_mask"])
def test_batch_without_objects_has_zero_loss_and_a_gradient_for_every_parameter(kind, tmp_path):
    model = distil_masks(tmp_path, kind=kind)
    losses = seeded_loss(model, *batch((0, 0)))
    assert all(value == 0 for name, value in losses.items() if "mask_kd" in name)
    total(losses).backward()
    assert all(value.grad is not None for value in model.parameters())


def test_masks_of_another_size_are_resized_and_of_one_channel_serve_all_classes(tmp_path):
    """Hand arithmetic: a constant mask is constant at any size."""
    model = distil_masks(tmp_path)
    method = model.methods[0]
    labels = torch.tensor([2, 0])
    own = torch.zeros(2, 3, 4, 4)
    taught = torch.tensor([1.0, -2.0])[:, None, None, None].expand(2, 1, 2, 2)
    found = method.compare(StageMasks(0, torch.zeros(2, 5), labels, own), taught)
    p = taught[:, 0, 0, 0].sigmoid()
    wanted = (p * (2 * p).log() + (1 - p) * (2 * (1 - p)).log()).mean()
    torch.testing.assert_close(found, wanted)
    step = torch.tensor([[[[0.0, 4.0]]]])
    wide = StageMasks(0, torch.zeros(1, 5), labels[:1], torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]]))
    assert method.compare(wide, step) == 0, "bilinear: the quarters between the two pixels' centres"


def test_classes_are_found_by_name(tmp_path):
    teacher = two_stage("mask", base=16, num_classes=4)
    model = distil_masks(
        tmp_path, dict(MASKS, classes=["a", "b", "c"]), teacher=teacher, classes=("c", "d", "a", "b")
    )
    seen = watched(model)
    losses = seeded_loss(model, *batch())
    [(masks, taught)] = seen
    index = torch.tensor([2, 3, 0])[masks.labels]
    own, other = of_label(masks.logits, masks.labels), of_label(taught, index)
    wanted = F.binary_cross_entropy_with_logits(own, other.sigmoid())
    wanted -= F.binary_cross_entropy_with_logits(other, other.sigmoid())
    torch.testing.assert_close(losses["loss_mask_kd"], wanted, rtol=1e-3, atol=1e-6)


def test_single_stage_learns_from_a_cascades_first(tmp_path):
    model = distil_masks(tmp_path, teacher=two_stage("cascade_mask", base=16))
    assert model.methods[0].teacher_stage == [0]
    assert seeded_loss(model, *batch())["loss_mask_kd"] > 0


def test_half_precision(tmp_path):
    model = distil_masks(tmp_path, speed=dict(bfloat16=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = seeded_loss(model, *batch())
    assert losses["loss_mask_kd"].dtype == torch.float32
    total(losses).backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


def test_teacher_runs_once_and_its_box_heads_not_at_all(tmp_path):
    model = distil_masks(tmp_path)
    calls = []
    teacher = model.teacher.model
    for name in ("backbone", "neck", "rpn_head", "roi_head.bbox_head", "roi_head.mask_head"):
        teacher.get_submodule(name).register_forward_hook(lambda *args, name=name: calls.append(name))
    seeded_loss(model, *batch())
    assert calls == ["backbone", "neck", "roi_head.mask_head"]


@pytest.mark.parametrize(
    ("student", "teacher", "extra", "message"),
    [
        (dense("fcos"), two_stage("mask"), {}, r"does not fit student FCOS \(no mask head of RoIs\)"),
        (two_stage("mask"), two_stage(), {}, r"does not fit teacher FasterRCNN \(no mask head of RoIs\)"),
        (
            two_stage("mask"),
            two_stage("mask", num_classes=4),
            {},
            "the student has 3 classes and the teacher 4",
        ),
        (two_stage("mask"), two_stage("mask"), dict(student_loss=False), "FeatureDistillation"),
    ],
    ids=["fcos", "faster", "classes", "labels"],
)
def test_what_cannot_work_is_refused_when_built(student, teacher, extra, message, tmp_path):
    with pytest.raises(UnsupportedError, match=message) as refused:
        distil(tmp_path, [MASKS], student=student, teacher=teacher, **extra)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_coarse_masks_of_pointrend_are_refused(role, tmp_path):
    """Its mask head has the loss of Mask R-CNN's, and what it is good at are its points."""
    networks = dict(student=two_stage("mask"), teacher=two_stage("mask"))
    head = networks[role].roi_head.mask_head
    head.update(type="CoarseMaskHead", num_fcs=1, num_convs=0)
    with pytest.raises(UnsupportedError, match=rf"{role} MaskRCNN \(CoarseMaskHead\)"):
        distil(tmp_path, [MASKS], **networks)


def test_mask_head_with_a_loss_of_its_own_is_refused(tmp_path):
    @MODELS.register_module(force=True)
    class OtherLossMaskHead(FCNMaskHead):
        def loss_and_target(self, *args, **kwargs):
            return super().loss_and_target(*args, **kwargs)

    student = two_stage("mask")
    student.roi_head.mask_head.type = "OtherLossMaskHead"
    with pytest.raises(UnsupportedError, match=r"student MaskRCNN \(OtherLossMaskHead\)"):
        distil(tmp_path, [MASKS], student=student, teacher=two_stage("mask"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(loss_name="kd"), ConfigError, "loss_name must contain 'loss'"),
        (dict(loss=dict(type="DKDLoss")), UnsupportedError, "DKDLoss"),
        (dict(loss=dict(type="L1Loss")), UnsupportedError, "L1Loss does not compare"),
        (
            dict(loss=dict(type="SoftCrossEntropyLoss")),
            UnsupportedError,
            "SoftCrossEntropyLoss does not compare masks",
        ),
        (dict(loss=dict(type="KDLoss", use_sigmoid=False)), ConfigError, "leave out use_sigmoid=False"),
    ],
)
def test_settings_out_of_range_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        MODELS.build(dict(MASKS, **copy.deepcopy(changes)))


def test_masks_of_rois_take_features_in_any_layout():
    """A teacher may run with channels last."""
    model = build(two_stage("mask"), 0).eval()
    rois = torch.tensor([[0, 3.0, 3, 40, 30], [1, 10, 10, 60, 60]])
    with torch.no_grad():
        levels = model.extract_feat(torch.rand(2, 3, 64, 96))
        plain = mask_rois(model, dict(neck=levels), "neck", 0, rois)
        last = [level.contiguous(memory_format=torch.channels_last) for level in levels]
        torch.testing.assert_close(mask_rois(model, dict(neck=last), "neck", 0, rois), plain)
