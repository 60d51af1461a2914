"""Logit distillation of dense heads."""

from types import SimpleNamespace

from lad.errors import ConfigError, UnsupportedError
from lad.exchange.labels import reading_labels
from lad.heads.dense import class_logits, product_logit
from lad.losses import DKDLoss, KDLoss
from lad.methods import DenseLogitDistillation, Step

import pytest
import torch
from dense_detectors import class_loss_divisor, dense, distil, flat, outputs_of
from helpers import build, fake_cuda, make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from seam_detectors import small
from torch.distributions import Bernoulli, kl_divergence
from two_stage_detectors import two_stage

KD = dict(type="DenseLogitDistillation", loss=dict(type="KDLoss"))
DKD = dict(type="DenseLogitDistillation", loss=dict(type="DKDLoss", alpha=2.0, beta=0.5))
BATCH = ((3, 0, 4), (64, 96))
#: The others where time is no matter: their scores are logits as RetinaNet's are.
SLOW = ("fcos", "atss", "gfl", "vfnet", "paa", "ddod", "rtmdet")
FAMILIES = ("retinanet", "tood", "yolox", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))


def batch():
    return make_batch(BATCH[0], size=BATCH[1])


@torch.no_grad()
def less_sure(model):
    """RetinaNets of random weights have logits of 1000."""
    for detector in (model.student, model.teacher.model):
        if hasattr(detector.bbox_head, "retina_cls"):
            detector.bbox_head.retina_cls.weight *= 0.01
    return model


@torch.no_grad()
def class_probabilities(detector, inputs):
    """(N, P, 3) by which each family ranks classes, in its own words."""
    outputs = outputs_of(detector, inputs)
    scores = flat(outputs[0], 3).double()  # random weights are sure: float32 would round to 1
    kind = type(detector).__name__
    if kind == "YOLOX":
        return scores.sigmoid() * flat(outputs[2], 1).double().sigmoid()
    return scores if kind == "TOOD" else scores.sigmoid()


def labels_of(model, inputs, samples):
    with reading_labels(model.student.bbox_head) as reader:
        model.student.loss(inputs, samples)
    levels = outputs_of(model.student, inputs)[0]
    channels = model.student.bbox_head.cls_out_channels
    return reader.labels(len(samples), [level[0].numel() // channels for level in levels])


def by_hand(model, where="all", alpha=1.0, beta=1.0):
    """The sum over images, priors and classes, over what the head divides its own class loss by."""
    inputs, samples = batch()
    own = class_probabilities(model.student, inputs)
    taught = class_probabilities(model.teacher.model, model.teacher.renormalisation(inputs, samples))
    labels = labels_of(model, inputs, samples)
    divergence = kl_divergence(Bernoulli(taught), Bernoulli(own))
    total = torch.zeros((), dtype=torch.float64)
    for image in range(len(samples)):
        for prior in labels.counts[image].nonzero()[:, 0].tolist():
            label = int(labels.labels[image, prior])
            factor = torch.full((3,), beta, dtype=torch.float64)
            factor[label : label + 1] = alpha
            weight = dict(all=1.0, positive=float(label < 3), confidence=float(taught[image, prior].max()))[
                where
            ]
            total += weight * (factor * divergence[image, prior]).sum()
    return (total / class_loss_divisor(model.student, inputs, samples)).float()


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_divergence_of_the_probabilities_by_which_a_family_ranks_classes(family, tmp_path):
    model = less_sure(distil(tmp_path, [KD], dense(family)))
    value = model.loss(*batch())["loss_kd"]
    torch.testing.assert_close(value, by_hand(model), rtol=2e-3, atol=1e-5)
    assert value > 0


@pytest.mark.parametrize("where", ["all", "positive", "confidence"])
def test_decoupled_loss_weighs_the_assigned_class_and_the_others_apart(where, tmp_path):
    model = distil(tmp_path, [dict(DKD, where=where)], dense("atss"))
    value = model.loss(*batch())["loss_kd"]
    torch.testing.assert_close(value, by_hand(model, where, alpha=2.0, beta=0.5), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objects", [(0, 0, 0), (0, 2, 0)])
@pytest.mark.parametrize(("family", "count"), [("gfl", 3), ("fcos", 1)])
def test_methods_divide_by_what_the_head_divides_its_class_loss_by(family, count, objects, tmp_path):
    cross = dict(type="CrossHeadDistillation")
    model = distil(tmp_path, [KD, cross], dense(family, stacked_convs=2))
    divisors = []
    for loss in (model.methods[0].loss, model.methods[1].loss_cls):
        loss.register_forward_pre_hook(
            lambda module, args, kwargs: divisors.append(float(kwargs["avg_factor"])), with_kwargs=True
        )
    inputs, samples = make_batch(objects, size=(64, 96))
    model.loss(inputs, samples)
    assert divisors == pytest.approx([class_loss_divisor(model.student, inputs, samples)] * 2, rel=1e-4)
    if not any(objects):
        assert divisors == [count, count]


def test_near_misses_of_retinanet_are_passed_over(tmp_path):
    config = dense("retinanet")
    config.train_cfg.assigner.neg_iou_thr = 0.2
    model = less_sure(distil(tmp_path, [KD], config))
    assert not labels_of(model, *batch()).counts.all()
    torch.testing.assert_close(model.loss(*batch())["loss_kd"], by_hand(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [KD, DKD])
def test_a_teacher_with_the_students_weights_teaches_nothing(method, tmp_path):
    model = distil(tmp_path, [method], dense("gfl"), seed=0)
    assert model.loss(*batch())["loss_kd"] == 0


def test_with_a_weight_of_zero_it_is_plain_training(tmp_path):
    method = dict(KD, loss=dict(type="KDLoss", loss_weight=0.0))
    model = distil(tmp_path, [method], dense("retinanet"))
    plain = model.student.loss(*batch())
    taught = model.loss(*batch())
    assert taught.pop("loss_kd") == 0
    torch.testing.assert_close(taught, plain)


def test_softmax_heads_are_compared_by_softmax_with_their_background(tmp_path):
    loss_cls = dict(_delete_=True, type="CrossEntropyLoss", use_sigmoid=False)
    config = dense("retinanet")
    config.bbox_head.loss_cls = {key: value for key, value in loss_cls.items() if key != "_delete_"}
    model = distil(tmp_path, [KD], config)
    inputs, samples = batch()
    with torch.no_grad():
        own, taught = (
            flat(outputs_of(detector, inputs)[0], 4) for detector in (model.student, model.teacher.model)
        )
    labels = labels_of(model, inputs, samples)
    elements = torch.nn.functional.kl_div(
        own.log_softmax(2), taught.log_softmax(2), reduction="none", log_target=True
    ).sum(2)
    expected = (elements * labels.counts).sum() / class_loss_divisor(model.student, inputs, samples)
    torch.testing.assert_close(model.loss(inputs, samples)["loss_kd"], expected, rtol=1e-4, atol=1e-6)


def test_classes_are_found_by_name(tmp_path):
    """A teacher that knows the student's classes in another order and one more, with weights moved accordingly."""
    student, teacher = dense("fcos"), dense("fcos", num_classes=4)
    method = dict(KD, classes=("a", "b", "c"))
    model = distil(tmp_path, [method], student, teacher, classes=("c", "x", "a", "b"))
    same = distil(tmp_path, [KD], student)
    head, mapped = same.teacher.model, model.teacher.model
    weights = head.state_dict()
    for name in ("bbox_head.conv_cls.weight", "bbox_head.conv_cls.bias"):
        a, b, c = weights[name]
        weights[name] = torch.stack([c, torch.ones_like(a), a, b])
    mapped.load_state_dict(weights)
    torch.testing.assert_close(model.loss(*batch())["loss_kd"], same.loss(*batch())["loss_kd"])


def test_rtmdet_teaches_yolox(tmp_path):
    model = distil(tmp_path, [KD], dense("yolox"), dense("rtmdet"))
    losses = model.loss(*batch())
    torch.testing.assert_close(losses["loss_kd"], by_hand(model), rtol=2e-3, atol=1e-5)


def test_one_step_brings_the_student_nearer_and_leaves_the_teacher_alone(tmp_path):
    model = distil(tmp_path, [DKD], dense("atss"))
    before = [parameter.clone() for parameter in model.teacher.model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    first = model.loss(*batch())["loss_kd"]
    first.backward()
    optimizer.step()
    assert model.loss(*batch())["loss_kd"] < first
    assert all(p.grad is None for p in model.teacher.model.parameters())
    pairs = zip(before, model.teacher.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@settings(max_examples=80)
@given(first=st.floats(-30, 30), second=st.floats(-30, 30))
def test_logit_of_a_product_of_probabilities(first, second):
    a, b = (torch.tensor([value], dtype=torch.float64) for value in (first, second))
    expected = torch.logit(a.sigmoid() * b.sigmoid())
    found = product_logit(a.float(), b.float())
    if a.sigmoid() * b.sigmoid() < 1 - 1e-9:  # float64 itself rounds beyond
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    extreme = product_logit(torch.tensor([6e4]), torch.tensor([-6e4]))
    assert extreme.item() == -6e4


def test_probabilities_of_certain_tood_heads_have_finite_logits():
    head = build(dense("tood")).bbox_head
    scores = [torch.tensor([0.0, 1.0, 0.5], dtype=torch.float16).view(1, 3, 1, 1)]
    logits = class_logits(head, (scores, None))
    assert logits.isfinite().all()
    assert logits[0, 0, 2] == 0


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        ("fcos", two_stage(), {}, r"teacher FasterRCNN \(no bbox_head\).*RoILogitDistillation"),
        (
            "atss",
            "retinanet",
            {},
            r"compares two heads prior by prior, and student and teacher have different",
        ),
        (
            "atss",
            ("atss", dict(num_classes=4)),
            {},
            "student has 3 classes and the teacher 4; name the student's",
        ),
        (("retinanet", dict(type="FreeAnchorRetinaHead")), "retinanet", {}, "FreeAnchorRetinaHead trains on"),
        ("fcos", "fcos", dict(where="some"), "where must be one of all, positive, confidence, got 'some'"),
        ("fcos", "fcos", dict(loss_name="kd"), "loss_name must contain 'loss'"),
        ("fcos", "fcos", dict(loss=dict(type="KDLos")), "there is no loss 'KDLos'"),
        ("fcos", "fcos", dict(student_loss=False), "needs the labels of the student's own loss"),
    ],
)
def test_what_cannot_work_is_refused_when_built(student, teacher, settings, message, tmp_path):
    def config(what):
        if isinstance(what, dict):
            return what
        return dense(what) if isinstance(what, str) else dense(what[0], **what[1])

    settings = dict(settings)
    extra = {key: settings.pop(key) for key in ("student_loss",) if key in settings}
    with pytest.raises((UnsupportedError, ConfigError), match=message):
        distil(tmp_path, [dict(KD, **settings)], config(student), config(teacher), **extra)


def test_other_strides_are_refused(tmp_path):
    teacher = dense("atss")
    teacher.neck.num_outs = 4
    teacher.bbox_head.anchor_generator.strides = [8, 16, 32, 64]
    with pytest.raises(UnsupportedError, match=r"the student's strides \[8, 16, 32, 64, 128\] are not"):
        distil(tmp_path, [KD], dense("atss"), teacher)


@pytest.mark.parametrize("loss", [KDLoss, DKDLoss])
def test_losses_on_cuda_inputs_do_not_wait(loss):
    with fake_cuda():
        head = build(small("rtmdet")).bbox_head
        sizes = [(8, 12), (4, 6), (2, 3)]
        outputs = [[torch.randn(2, c, *size, device="cuda") for size in sizes] for c in (3, 4)]
        method = DenseLogitDistillation(where="confidence")
        method.loss = loss(use_sigmoid=True)
        method.mapping = SimpleNamespace(binary_logits=lambda logits: logits)
        model = SimpleNamespace(bbox_head=head)
        teacher = SimpleNamespace(
            model=model, target=lambda name: [outputs], once=lambda what, derive: derive()
        )
        step = Step(None, None, SimpleNamespace(bbox_head=head), teacher, dict(bbox_head=outputs))
        with reading_labels(head) as reader:
            for height, width in sizes:
                labels = torch.zeros(2 * height * width, dtype=torch.long, device="cuda")
                reader.hook(head.loss_cls, (None, (labels, labels.float()), labels.float() + 1), {})
                reader._metrics.append(labels.float().sum())
        step.observations[method] = reader
        assert method.losses(step)["loss_kd"].device.type == "cuda"
