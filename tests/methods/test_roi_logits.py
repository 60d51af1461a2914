"""Logit distillation of RoI heads."""

import copy

from lad.errors import UnsupportedError

import pytest
import torch
import torch.nn.functional as F
from dense_detectors import dense
from helpers import make_batch
from two_stage_detectors import distil, seeded_loss, total, two_stage

KD = dict(type="RoILogitDistillation", loss=dict(type="KDLoss", temperature=2.0))
DKD = dict(type="RoILogitDistillation", loss=dict(type="DKDLoss", alpha=2.0, beta=0.5))
BATCH = ((3, 2), (64, 96))


def watched(model):
    """What the method compares, stage by stage."""
    seen = []
    method = model.methods[0]
    compare = method.compare

    def run(head, outputs, scores, boxes):
        seen.append((outputs, scores.clone()))
        return compare(head, outputs, scores, boxes)

    method.compare = run
    return seen


def test_plain_distillation_on_the_sampled_proposals(tmp_path):
    model = distil(tmp_path, [KD])
    seen = watched(model)
    losses = seeded_loss(model, *make_batch(BATCH[0], size=BATCH[1]))
    [(outputs, scores)] = seen
    assert len(outputs.rois) == 64  # 32 of each of the two images
    assert outputs.cls_score.shape == scores.shape == (64, 4)
    expected = 4 * F.kl_div(
        (outputs.cls_score / 2).log_softmax(1), (scores / 2).softmax(1), reduction="batchmean"
    )
    torch.testing.assert_close(losses["loss_kd"], expected, rtol=1e-4, atol=1e-6)


def test_target_of_the_decoupled_loss_is_the_proposals_label_background_too(tmp_path):
    model = distil(tmp_path, [DKD])
    seen = watched(model)
    losses = seeded_loss(model, *make_batch(BATCH[0], size=BATCH[1]))
    [(outputs, scores)] = seen
    labels = outputs.targets.labels
    assert (labels == 3).any()
    assert (labels < 3).any()
    expected = 0.0
    for own, taught, label in zip(outputs.cls_score, scores, labels.tolist(), strict=True):
        p_s, p_t = own.softmax(0).double(), taught.softmax(0).double()
        others = [number for number in range(4) if number != label]
        b_s, b_t = (torch.stack([p[label], p[others].sum()]) for p in (p_s, p_t))
        q_s, q_t = (p[others] / p[others].sum() for p in (p_s, p_t))
        expected += 2 * (b_t * (b_t / b_s).log()).sum() + 0.5 * (q_t * (q_t / q_s).log()).sum()
    torch.testing.assert_close(losses["loss_kd"].double(), expected / 64, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["faster", "cascade"])
def test_the_students_own_losses_stay_as_they_are(kind, tmp_path):
    batch = make_batch(BATCH[0], size=BATCH[1])
    model = distil(tmp_path, [KD], student=two_stage(kind), teacher=two_stage(kind))
    losses = seeded_loss(model, *batch)
    plain = seeded_loss(model.student, *batch)
    names = {"loss_kd"} if kind == "faster" else {"s0.loss_kd", "s1.loss_kd", "s2.loss_kd"}
    assert set(losses) - set(plain) == names
    torch.testing.assert_close({name: losses[name] for name in plain}, plain)
    assert all(losses[name] > 0 for name in names)


def test_stages_of_a_cascade_have_their_weights(tmp_path):
    model = distil(tmp_path, [KD], student=two_stage("cascade"))
    seen = watched(model)
    losses = seeded_loss(model, *make_batch(BATCH[0], size=BATCH[1]))
    for number, (outputs, scores) in enumerate(seen):
        kl = F.kl_div((outputs.cls_score / 2).log_softmax(1), (scores / 2).softmax(1), reduction="batchmean")
        expected = (1.0, 0.5, 0.25)[number] * 4 * kl
        torch.testing.assert_close(losses[f"s{number}.loss_kd"], expected, rtol=1e-4, atol=1e-6)
    assert len(seen) == 3


def test_sigmoid_classifiers_are_compared_class_by_class(tmp_path):
    head = dict(loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True), num_classes=3)
    config = two_stage(head=dict(loss_cls=head["loss_cls"]))
    model = distil(tmp_path, [dict(KD, loss=dict(type="KDLoss"))], student=config, teacher=config)
    assert model.methods[0].loss.use_sigmoid
    seen = watched(model)
    losses = seeded_loss(model, *make_batch(BATCH[0], size=BATCH[1]))
    [(outputs, scores)] = seen
    p, q = outputs.cls_score.sigmoid(), scores.sigmoid()
    elements = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    torch.testing.assert_close(losses["loss_kd"], elements.sum(1).mean(), rtol=1e-3, atol=1e-6)


def test_one_step_brings_the_student_nearer_and_leaves_the_teacher_alone(tmp_path):
    model = distil(tmp_path, [DKD])
    batch = make_batch(BATCH[0], size=BATCH[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = seeded_loss(model, *copy.deepcopy(batch))
    total(losses).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in model.teacher.model.parameters())
    optimizer.zero_grad()
    seeded_loss(model, *batch)["loss_kd"].backward()
    head = model.student.roi_head.bbox_head
    assert head.fc_cls.weight.grad.abs().sum() > 0
    assert head.fc_reg.weight.grad is None or head.fc_reg.weight.grad.abs().sum() == 0
    first = seeded_loss(model, *batch)["loss_kd"]
    optimizer.step()
    assert seeded_loss(model, *batch)["loss_kd"] < first


def test_with_a_weight_of_zero_it_is_plain_training(tmp_path):
    model = distil(tmp_path, [dict(KD, loss=dict(type="KDLoss", loss_weight=0.0))])
    batch = make_batch(BATCH[0], size=BATCH[1])
    losses = seeded_loss(model, *batch)
    assert losses.pop("loss_kd") == 0
    torch.testing.assert_close(losses, seeded_loss(model.student, *batch))


@pytest.mark.parametrize(
    ("student", "teacher", "extra", "message"),
    [
        (dense("fcos"), two_stage(), {}, r"RoILogitDistillation does not fit student FCOS \(no roi_head\)"),
        (two_stage(), two_stage(num_classes=4), {}, "the student has 3 classes and the teacher 4; name the"),
        (two_stage(), two_stage(), dict(student_loss=False), "RCNNDistillation works without labels"),
    ],
)
def test_what_cannot_work_is_refused_when_built(student, teacher, extra, message, tmp_path):
    with pytest.raises(UnsupportedError, match=message):
        distil(tmp_path, [KD], student=student, teacher=teacher, **extra)
