"""FedNTD on dense heads and RoI heads."""

import copy

from lad.errors import ConfigError, UnsupportedError
from lad.heads.dense import class_logits
from lad.losses import not_true_divergence
from lad.methods import NotTrueDistillation
from lad.methods.response.not_true import dense_not_true

import pytest
import torch
import torch.distributions as D
from dense_detectors import dense, distil, outputs_of
from helpers import at, build, fake_cuda, make_batch
from mmdet.registry import MODELS
from two_stage_detectors import distil as distil_rois
from two_stage_detectors import seeded_loss, two_stage

METHOD = dict(type="NotTrueDistillation")
BATCH = ((3, 0, 4), (64, 96))


def batch():
    return make_batch(BATCH[0], size=BATCH[1])


@torch.no_grad()
def less_sure(model):
    """RetinaNets of random weights have logits of 1000."""
    for detector in (model.student, model.teacher.model):
        detector.bbox_head.retina_cls.weight *= 0.01
    return model


def test_positives_and_negatives_by_hand():
    """Three priors of two classes: one positive of class 0, two negatives; logits 0 and log 3 are 1/2 and 3/4."""
    log3 = torch.tensor(3.0).log()
    student = torch.zeros(4, 2)
    teacher = torch.stack(
        [log3.repeat(2), torch.tensor([0.0, log3]), torch.tensor([-50.0, -50.0]), log3.repeat(2)]
    )
    labels = torch.tensor([0, 2, 2, 1])
    positive = torch.tensor([True, False, False, False])
    negative = torch.tensor([False, True, True, False])  # the last one is ignored
    kl = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()  # of 3/4 from 1/2
    # Negatives: s = 3/4 and (almost) 0: the sum is below 1.
    value = dense_not_true(student, teacher, labels, positive, negative)
    torch.testing.assert_close(value, kl + 0.75 * kl)
    # Twice as many: the sum of s is 3/2 and the mean is the divergence of one.
    negative = torch.tensor([False, True, True, True])
    teacher[3] = teacher[1]
    value = dense_not_true(student, teacher, labels, positive, negative)
    torch.testing.assert_close(value, kl + kl)


def test_dense_loss_is_the_formulas(tmp_path):
    model = less_sure(distil(tmp_path, [METHOD], dense("retinanet")))
    inputs, samples = batch()
    part = model.methods[0].part
    kept = {}
    labels_of = part.labels
    part.labels = lambda step: kept.setdefault("labels", labels_of(step))
    value = model.loss(inputs, samples)["loss_not_true"]
    labels = kept["labels"]
    own = class_logits(model.student.bbox_head, outputs_of(model.student, inputs)).double().sigmoid()
    images = model.teacher.renormalisation(inputs, samples)
    taught = class_logits(model.teacher.model.bbox_head, outputs_of(model.teacher.model, images))
    taught = taught.double().sigmoid()
    divergence = D.kl_divergence(D.Bernoulli(taught), D.Bernoulli(own))
    positives = negatives = sum_chance = 0.0
    for image, prior in labels.counts.nonzero().tolist():
        label = int(labels.labels[image, prior])
        if labels.positive[image, prior]:
            positives += sum(divergence[image, prior, c] for c in range(3) if c != label)
        else:
            chance = taught[image, prior].max()
            negatives += chance * divergence[image, prior].sum()
            sum_chance += chance
    expected = positives / labels.positive.sum() + negatives / max(sum_chance, 1)
    assert value > 1e-3
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-4, atol=1e-6)


def snapshot(student, **settings):
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teachers=dict(round=dict(snapshot_of="student", at="start")),
            methods=[dict(METHOD, taught_by="round", **settings)],
        )
    )
    model.student.load_state_dict(build(student).state_dict())
    tame(model.student)
    return model


@torch.no_grad()
def tame(detector):
    """Logits of the order of 1, where those of random weights are of the order of 1000."""
    for level in detector.neck.fpn_convs:
        level.conv.weight *= 0.01
    if hasattr(detector, "bbox_head"):
        detector.bbox_head.retina_cls.weight *= 0.1
    return detector


@pytest.mark.parametrize("make", [lambda: dense("retinanet"), two_stage], ids=["dense", "roi"])
def test_starts_at_zero_and_trains_the_student_alone(make):
    """The first step has the global model's own weights; batch norm as at test time, so that equals are equal."""
    model = snapshot(make())
    for module in model.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    first = seeded_loss(model, *batch())["loss_not_true"]
    assert first.detach().abs() < 1e-5
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter *= 1.2
    at(model, 1)  # at the first step the snapshot would be taken again
    value = seeded_loss(model, *batch())["loss_not_true"]
    assert value > 1e-4
    value.backward()
    assert any(
        parameter.grad is not None and parameter.grad.any() for parameter in model.student.parameters()
    )
    assert not any(parameter.requires_grad for parameter in model.teachers["round"].model.parameters())


@pytest.mark.parametrize("make", [lambda: dense("retinanet"), two_stage], ids=["dense", "roi"])
def test_weight_of_zero_is_plain_training(make):
    """Also where the global model would protect proposals: it gives every class one chance in four, above 0.1."""
    model = snapshot(make(), weight=0.0, protect=0.1).train()
    plain = tame(build(make())).train()
    losses = seeded_loss(model, *batch())
    assert losses.pop("loss_not_true") == 0
    expected = seeded_loss(plain, *batch())
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-6)


def compared(model, losses_of):
    """What the RoI head compares, and the weights with which its own loss is computed."""
    seen, weights = [], []
    part, head = model.methods[0].part, model.student.roi_head.bbox_head
    compare, loss_cls = part.compare, head.loss_cls.forward

    def run(head, outputs, scores, boxes):
        seen.append((outputs, scores.clone()))
        return compare(head, outputs, scores, boxes)

    def weighted(score, labels, weight, *args, **kwargs):
        weights.append((weight.clone(), kwargs["avg_factor"]))
        return loss_cls(score, labels, weight, *args, **kwargs)

    part.compare, head.loss_cls.forward = run, weighted
    losses = losses_of()
    [(outputs, scores)], [(weight, avg_factor)] = seen, weights
    return losses, outputs, scores, weight, avg_factor


@pytest.mark.parametrize("protect", [0.6, None])
def test_roi_loss_is_the_formulas(tmp_path, protect):
    model = distil_rois(tmp_path, [dict(METHOD, protect=protect, temperature=2.0)])
    calls = []
    evaluate = model.teacher.model.roi_head._bbox_forward
    model.teacher.model.roi_head._bbox_forward = lambda *args: calls.append(1) or evaluate(*args)
    losses, outputs, scores, weight, avg_factor = compared(model, lambda: seeded_loss(model, *batch()))
    assert len(calls) == 1  # the teacher is asked once for both
    labels = outputs.targets.labels
    chance = scores.softmax(1)[:, :3].max(1).values
    protected = (labels == 3) & (chance > 0.6) if protect else torch.zeros_like(labels, dtype=torch.bool)
    assert protected.any() == bool(protect)
    assert ((labels == 3) & ~protected).any()
    assert (labels < 3).any()
    # The own loss of protected proposals is gone, that of all others is not.
    assert torch.equal(weight > 0, (outputs.targets.label_weights > 0) & ~protected)
    assert avg_factor == (weight > 0).sum()
    values = []
    for index, label in enumerate(labels.tolist()):
        if label < 3 or protected[index]:
            target = torch.tensor([label if label < 3 else -1])
            values.append(
                not_true_divergence(outputs.cls_score[None, index], scores[None, index], target, 2.0)
            )
    torch.testing.assert_close(losses["loss_not_true"], torch.cat(values).mean(), rtol=1e-4, atol=1e-6)


def test_cascade_protects_stage_by_stage(tmp_path):
    model = distil_rois(
        tmp_path, [dict(METHOD, protect=0.1)], two_stage("cascade"), two_stage("cascade", base=16)
    )
    losses = seeded_loss(model, *batch())
    assert {f"s{stage}.loss_not_true" for stage in range(3)} <= losses.keys()
    assert not model.methods[0].part.seen  # nothing outlives the step


def test_sigmoid_roi_heads(tmp_path):
    head = dict(loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True))
    student, teacher = two_stage(head=head), two_stage(base=16, head=head)
    losses = seeded_loss(distil_rois(tmp_path, [METHOD], student, teacher), *batch())
    assert losses["loss_not_true"] > 0


def test_images_without_objects(tmp_path):
    empty = make_batch((0, 0), size=BATCH[1])
    for model in (less_sure(distil(tmp_path, [METHOD], dense("retinanet"))), distil_rois(tmp_path, [METHOD])):
        value = seeded_loss(model, *empty)["loss_not_true"]
        assert value.isfinite()


def test_refused_by_name(tmp_path):
    softmax = dense("retinanet")
    softmax.bbox_head.loss_cls = dict(type="CrossEntropyLoss")
    with pytest.raises(UnsupportedError, match=r"NotTrueDistillation.*softmax over the classes of a prior"):
        distil(tmp_path, [METHOD], softmax)
    with pytest.raises(UnsupportedError, match="student_loss=False: NotTrueDistillation needs"):
        distil(tmp_path, [METHOD], dense("retinanet"), student_loss=False)
    with pytest.raises(UnsupportedError, match="NotTrueDistillation"):
        distil_rois(tmp_path, [METHOD], two_stage(), two_stage(num_classes=4))


@pytest.mark.parametrize(
    "setting",
    [
        dict(temperature=0),
        dict(temperature="1"),
        dict(protect=1.5),
        dict(protect=True),
        dict(weight=-1),
        dict(loss_name="kl"),
    ],
)
def test_wrong_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"NotTrueDistillation: {next(iter(setting))}"):
        NotTrueDistillation(**setting)


def test_ready_for_gpus():
    with fake_cuda():
        logits = [torch.randn(8, 3, device="cuda") for _ in range(2)]
        positive = torch.tensor([True] * 4 + [False] * 4, device="cuda")
        value = dense_not_true(*logits, torch.zeros(8, dtype=torch.long, device="cuda"), positive, ~positive)
        assert value.device.type == "cuda"


def test_works_beside_methods_that_change_the_same_heads_loss(tmp_path):
    """Each of two takes its own proposals out of the loss that a third one scales."""
    methods = [
        dict(METHOD, name="first", protect=0.6),
        dict(type="RCNNDistillation", mu=0.25),
        dict(METHOD, name="second", protect=0.9, loss_name="loss_other"),
    ]
    losses = seeded_loss(distil_rois(tmp_path, methods), *batch())
    alone = seeded_loss(distil_rois(tmp_path, methods[:1]), *batch())
    torch.testing.assert_close(losses["loss_cls_hard"], 0.25 * alone["loss_cls"])
    torch.testing.assert_close(losses["loss_not_true"], alone["loss_not_true"])
