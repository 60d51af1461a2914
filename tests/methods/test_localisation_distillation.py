"""Localisation distillation of GFL heads, and the region around objects."""

import copy
from types import SimpleNamespace

from lad.assignment.valuable_region import valuable_region
from lad.errors import UnsupportedError
from lad.exchange.labels import reading_labels
from lad.methods import LocalisationDistillation, Step

import pytest
import torch
from dense_detectors import dense, distil, outputs_of
from helpers import build, fake_cuda, make_batch
from mmdet.models.losses import DIoULoss
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData

LD = dict(type="LocalisationDistillation")
BATCH = ((3, 0, 4), (64, 96))


def batch():
    return make_batch(BATCH[0], size=BATCH[1])


def region_by_hand(anchors, counts, gt_bboxes, gamma):
    """The paper's Algorithm 1, object by object; DIoU from MMDetection's loss."""
    best = torch.zeros(len(anchors))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    for box in gt_bboxes:
        overlaps = bbox_overlaps(anchors, box[None])[:, 0]
        distance = (centres - (box[:2] + box[2:]) / 2).norm(dim=1)
        candidates, start = [], 0
        for count in counts:
            candidates += (distance[start : start + count].argsort()[:9] + start).tolist()
            start += count
        chosen = overlaps[candidates]
        threshold = chosen.mean() + chosen.std()
        diou = 1 - DIoULoss(reduction="none")(anchors, box[None].expand(len(anchors), 4))
        inside = (diou >= gamma * threshold) & (diou < threshold)
        best = torch.maximum(best, overlaps * inside)
    return best


def test_region_is_the_papers_object_by_object():
    head = build(dense("gfl")).bbox_head
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    anchors = torch.cat(head.prior_generator.grid_priors(sizes, device="cpu"))
    counts = [height * width for height, width in sizes]
    _, samples = make_batch((4, 2), size=(64, 96), seed=3)
    padded = torch.zeros(2, 4, 4)
    for image, sample in enumerate(samples):
        padded[image, : len(sample.gt_instances)] = sample.gt_instances.bboxes
    everywhere = torch.ones(2, len(anchors), dtype=torch.bool)
    for gamma in (0.25, 0.6):
        found = valuable_region(anchors, everywhere, padded, counts, gamma=gamma)
        for image, sample in enumerate(samples):
            expected = region_by_hand(anchors, counts, sample.gt_instances.bboxes, gamma)
            torch.testing.assert_close(found[image], expected, rtol=1e-4, atol=1e-5)
        assert (found > 0).any(dim=1).all()
    # A smaller gamma reaches further out.
    wide, narrow = (valuable_region(anchors, everywhere, padded, counts, gamma=g) > 0 for g in (0.25, 0.6))
    assert (wide >= narrow).all()
    assert wide.sum() > narrow.sum()
    nowhere = valuable_region(anchors, torch.zeros_like(everywhere), padded, counts)
    assert not nowhere.any()
    assert not valuable_region(anchors, everywhere, padded[:, :0], counts).any()


def test_main_region_is_mmdetections_ldhead(tmp_path):
    """Its loss of weight 0.25 is not divided; ours of weight 0.25 N is divided by the number N of images."""
    method = dict(LD, loss_weight=0.25 * 3, vlr_weight=0.0)
    model = distil(tmp_path, [method], dense("gfl"))
    inputs, samples = batch()
    config = copy.deepcopy(dense("gfl").bbox_head)
    config.update(
        type="LDHead",
        loss_ld=dict(type="KnowledgeDistillationKLDivLoss", loss_weight=0.25, T=10),
        train_cfg=dense("gfl").train_cfg,
        test_cfg=dense("gfl").test_cfg,
    )
    peer = MODELS.build(config)
    peer.load_state_dict(model.student.bbox_head.state_dict())
    with torch.no_grad():
        taught = outputs_of(model.teacher.model, inputs)
        gt_instances, ignored, metas = unpack_gt_instances(samples)
        expected = peer.loss_by_feat(
            *outputs_of(model.student, inputs),
            gt_instances,
            metas,
            taught[1],
            batch_gt_instances_ignore=ignored,
        )
    losses = model.loss(inputs, samples)
    assert "loss_ld_vlr" not in losses
    torch.testing.assert_close(losses["loss_ld"].detach(), sum(expected["loss_ld"]))
    assert losses["loss_ld"] > 0


def test_region_around_weighs_the_same_divergence_by_overlap(tmp_path):
    model = distil(tmp_path, [dict(LD, vlr_weight=2.0, temperature=3.0)], dense("gfl"))
    inputs, samples = batch()
    with torch.no_grad():
        own, taught = (outputs_of(detector, inputs)[1] for detector in (model.student, model.teacher.model))
    head = model.student.bbox_head
    sizes = [level.shape[-2:] for level in own]
    anchors = torch.cat(head.prior_generator.grid_priors(sizes, device="cpu"))
    counts = [height * width for height, width in sizes]
    total = 0.0
    for image, sample in enumerate(samples):
        weight = region_by_hand(anchors, counts, sample.gt_instances.bboxes, 0.25)
        s, t = (
            torch.cat([level[image].permute(1, 2, 0).reshape(-1, 4, 17) for level in levels]) / 3
            for levels in (own, taught)
        )
        kl = (t.softmax(2) * (t.log_softmax(2) - s.log_softmax(2))).mean(dim=(1, 2))
        total += (weight * 9 * kl).sum()
    losses = model.loss(inputs, samples)
    torch.testing.assert_close(losses["loss_ld_vlr"], 2.0 * total / 3, rtol=1e-3, atol=1e-6)


def test_zero_for_equals_plain_for_zero_weights_and_without_objects(tmp_path):
    inputs, samples = batch()
    same = distil(tmp_path, [LD], dense("gfl"), seed=0).loss(inputs, samples)
    assert same["loss_ld"] == same["loss_ld_vlr"] == 0
    model = distil(tmp_path, [dict(LD, loss_weight=0.0, vlr_weight=0.0)], dense("gfl"))
    losses = model.loss(inputs, samples)
    assert losses.pop("loss_ld") == 0
    torch.testing.assert_close(losses, model.student.loss(inputs, samples))
    empty = distil(tmp_path, [LD], dense("gfl")).loss(*make_batch((0, 0), size=(64, 96)))
    assert empty["loss_ld"] == empty["loss_ld_vlr"] == 0
    assert empty["loss_ld"].requires_grad


def test_one_step_brings_the_student_nearer_and_leaves_the_teacher_alone(tmp_path):
    model = distil(tmp_path, [LD], dense("gfl"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = model.loss(*batch())
    first = losses["loss_ld"] + losses["loss_ld_vlr"]
    first.backward()
    assert model.bbox_head.gfl_reg.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.model.parameters())
    optimizer.step()
    after = model.loss(*batch())
    assert after["loss_ld"] + after["loss_ld_vlr"] < first


@pytest.mark.parametrize(
    ("student", "teacher", "extra", "message"),
    [
        (dense("atss"), dense("gfl"), {}, r"does not fit student ATSS \(ATSSHead\); it works with GFLHead"),
        (
            dense("gfl"),
            dense("gfl", reg_max=8),
            {},
            "edges have 17 distances and the teacher's 9; set the same",
        ),
        (dense("gfl"), dense("gfl"), dict(student_loss=False), "needs the labels of the student's own loss"),
    ],
)
def test_what_cannot_work_is_refused_when_built(student, teacher, extra, message, tmp_path):
    with pytest.raises(UnsupportedError, match=message):
        distil(tmp_path, [LD], student, teacher, **extra)


def test_a_teacher_with_other_classes_is_welcome(tmp_path):
    """Edges alone are compared: a teacher of five classes with the same edges gives the same loss."""
    same = distil(tmp_path, [LD], dense("gfl"))
    model = distil(tmp_path, [LD], dense("gfl"), dense("gfl", num_classes=5))
    edges = {key: value for key, value in same.teacher.model.state_dict().items() if "gfl_cls" not in key}
    missing, _ = model.teacher.model.load_state_dict(edges, strict=False)
    assert missing == ["bbox_head.gfl_cls.weight", "bbox_head.gfl_cls.bias"]
    losses, expected = model.loss(*batch()), same.loss(*batch())
    for name in ("loss_ld", "loss_ld_vlr"):
        torch.testing.assert_close(losses[name], expected[name], rtol=0, atol=0)


def test_losses_on_cuda_inputs_do_not_wait():
    with fake_cuda():
        with torch.device("cuda"):
            head = build(dense("gfl")).bbox_head
        sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
        outputs = [[torch.randn(2, c, *size, device="cuda") for size in sizes] for c in (3, 68)]
        _, samples = make_batch((3, 0), size=(64, 96))
        for sample in samples:
            count = len(sample.gt_instances)
            sample.gt_instances = InstanceData(bboxes=torch.rand(count, 4, device="cuda"))
        method = LocalisationDistillation()
        teacher = SimpleNamespace(target=lambda name: [outputs])
        step = Step(None, samples, SimpleNamespace(bbox_head=head), teacher, dict(bbox_head=outputs))
        with reading_labels(head) as reader:
            for height, width in sizes:
                labels = torch.zeros(2 * height * width, dtype=torch.long, device="cuda")
                reader.hook(
                    head.loss_cls, (None, (labels, labels.float()), labels.float() + 1), dict(avg_factor=1.0)
                )
        step.observations[method] = reader
        assert all(value.device.type == "cuda" for value in method.losses(step).values())
