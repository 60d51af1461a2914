"""Distillation of a RoI head on the student's proposals."""

import copy
import inspect
import math
from unittest import mock

from lad.cli.checks import _check_teacher_classes
from lad.errors import ConfigError, UnsupportedError
from lad.methods.roi.rcnn import RCNNDistillation
from lad.methods.roi.stages import RoITargets, StageOutputs
from lad.methods.roi.two_stage import ClassMapping, TwoStageDistillation

import pytest
import torch
from helpers import build, fake_cuda, make_batch, small_paa
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from two_stage_detectors import (
    HINT,
    RCNN,
    RPN,
    distil,
    random_teacher,
    seeded_loss,
    total,
    two_stage,
    with_masks,
)

SIGMOID = dict(type="CrossEntropyCustomLoss", use_sigmoid=True, num_classes=3, loss_weight=1.0)
EXPLICIT = dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=2.0)
SEESAW = dict(type="SeesawLoss", num_classes=3)
KINDS = dict(
    faster=dict(),
    agnostic=dict(head=dict(reg_class_agnostic=True)),
    sigmoid=dict(head=dict(loss_cls=SIGMOID)),
    sigmoid_with_background=dict(head=dict(loss_cls=EXPLICIT)),
    decoded=dict(kind="giou"),
    cascade=dict(kind="cascade"),
    double=dict(kind="double"),
    mask=dict(kind="mask"),
)


def rcnn(**settings):
    return [dict(RCNN, **settings)]


def batch(kind="faster", objects=(3, 0), size=(64, 96)):
    inputs, samples = make_batch(objects, size=size)
    return inputs, with_masks(samples) if kind == "mask" else samples


def good_teacher(scale=0.1, **overrides):
    return random_teacher(two_stage(base=16, **overrides), scale)


def sampled(student, inputs, samples):
    """What MMDetection's own loss shows each box head with the seed: its arguments, and its targets."""
    calls, original = [], BBoxHead.loss_and_target

    def spy(self, **kwargs):
        result = original(self, **kwargs)
        calls.append((self, kwargs, result["bbox_targets"]))
        return result

    with mock.patch.object(BBoxHead, "loss_and_target", spy), torch.no_grad():
        seeded_loss(copy.deepcopy(student), inputs, samples)
    return calls


def teacher_alone(teacher, inputs, rois, stage):
    """The teacher's public forward on boxes: image by image instances, one stage."""
    features = teacher.extract_feat(inputs)
    instances = [InstanceData(bboxes=rois[rois[:, 0] == image, 1:]) for image in range(len(inputs))]
    if isinstance(teacher.roi_head.bbox_head, torch.nn.ModuleList):
        alone = copy.deepcopy(teacher.roi_head)
        result = alone._bbox_forward(stage, features, rois)
        return result["cls_score"], result["bbox_pred"]
    return teacher.roi_head.forward(features, instances)[:2]


def by_hand(model, inputs, samples, mu, nu, margin, background):
    """Both terms of each stage, proposal by proposal."""
    terms = {}
    calls = sampled(model.student, inputs, samples)
    for stage, (head, said, (labels, _, box_targets, _)) in enumerate(calls):
        with torch.no_grad():
            scores, boxes = teacher_alone(model.teacher.model, inputs, said["rois"], stage)
        classes, sigmoid = head.num_classes, getattr(head.loss_cls, "use_sigmoid", False)
        explicit = said["cls_score"].shape[1] > classes
        soft = bounded = 0.0
        for roi, label in enumerate(labels.tolist()):
            own, taught = said["cls_score"][roi], scores[roi]
            if sigmoid:
                for channel, (z_s, z_t) in enumerate(zip(own.tolist(), taught.tolist(), strict=True)):
                    p_s, p_t = (1 / (1 + math.exp(-z)) for z in (z_s, z_t))
                    yes = background if channel == classes else 1.0
                    no = 1.0 if explicit else background
                    soft -= yes * p_t * math.log(p_s) + no * (1 - p_t) * math.log(1 - p_s)
            else:
                for channel in range(classes + 1):
                    weight = background if channel == classes else 1.0
                    soft -= weight * (taught.softmax(0)[channel] * own.softmax(0)[channel].log()).item()
            if label < classes:
                which = 0 if head.reg_class_agnostic else label
                truth = box_targets[roi]
                if head.reg_decoded_bbox:
                    truth = head.bbox_coder.encode(said["rois"][roi : roi + 1, 1:], truth[None])[0]
                r_s = said["bbox_pred"][roi].view(-1, 4)[which]
                r_t = boxes[roi].view(-1, 4)[which]
                error = (r_s - truth).square().sum().item()
                bounded += error if error + margin > (r_t - truth).square().sum().item() else 0.0
        is_cascade = len(calls) > 1
        weight = model.student.roi_head.stage_loss_weights[stage] if is_cascade else 1.0
        prefix = f"s{stage}." if is_cascade else ""
        count = len(labels)
        terms[f"{prefix}loss_cls_soft"] = weight * (1 - mu) * head.loss_cls.loss_weight * soft / count
        terms[f"{prefix}loss_bbox_bounded"] = weight * nu * bounded / count
    return terms


def freeze_statistics(model):
    """Batch norm as in the forwards that are compared; the heads' modes alone decide what they return."""
    for module in model.student.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_the_formulas_proposal_by_proposal(tmp_path, kind):
    inputs, samples = batch(kind)
    settings = dict(mu=0.25, nu=0.75, margin=0.1, background_weight=2.0)
    student, teacher = two_stage(**KINDS[kind]), good_teacher(**KINDS[kind])
    model = freeze_statistics(distil(tmp_path, rcnn(**settings), student, teacher))
    expected = by_hand(model, inputs, samples, 0.25, 0.75, 0.1, 2.0)
    losses = seeded_loss(model, inputs, samples)
    assert {name for name in losses if "soft" in name or "bounded" in name} == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-7), name
    assert any(value > 0 for name, value in expected.items() if "bounded" in name)


@pytest.mark.parametrize("kind", ["faster", "double", "mask"])
def test_teachers_scores_on_the_students_proposals_are_those_of_the_teacher_run_alone(tmp_path, kind):
    inputs, samples = batch(kind, objects=(3, 2))
    model = freeze_statistics(
        distil(tmp_path, rcnn(), two_stage(**KINDS[kind]), two_stage(base=16, **KINDS[kind]))
    )
    [(_, said, _)] = sampled(model.student, inputs, samples)
    with mock.patch.object(RCNNDistillation, "stage_losses", return_value={}) as spy:
        seeded_loss(model, inputs, samples)
    _, _, outputs, scores, boxes = spy.call_args.args
    assert torch.equal(outputs.rois, said["rois"])
    instances = [InstanceData(bboxes=said["rois"][said["rois"][:, 0] == image, 1:]) for image in range(2)]
    teacher = random_teacher(two_stage(base=16, **KINDS[kind])).eval()
    with torch.no_grad():
        alone = teacher.roi_head.forward(teacher.extract_feat(inputs), instances)
    torch.testing.assert_close(scores, alone[0])
    torch.testing.assert_close(boxes, alone[1])
    assert not scores.requires_grad


ALL_ZERO = [dict(HINT, gamma=0.0), dict(RPN, mu=1.0, nu=0.0), dict(RCNN, mu=1.0, nu=0.0)]


@pytest.mark.parametrize("kind", ["faster", "cascade", "double", "mask", "decoded", "sigmoid"])
def test_zero_weights_equal_plain_training(tmp_path, kind):
    inputs, samples = batch(kind)
    student = two_stage(**KINDS[kind])
    losses = seeded_loss(
        distil(tmp_path, ALL_ZERO, student, two_stage(base=16, **KINDS[kind])), inputs, samples
    )
    added = [name for name in losses if any(part in name for part in ("soft", "bounded", "hint"))]
    assert added
    assert all(losses.pop(name) == 0 for name in added)
    plain = seeded_loss(build(student).train(), inputs, samples)
    assert [name.removesuffix("_hard") for name in losses] == list(plain)
    for (name, value), expected in zip(losses.items(), plain.values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["faster", "cascade", "mask"])
def test_hard_losses_are_scaled_exactly_once_and_every_loss_says_what_it_is(tmp_path, kind):
    inputs, samples = batch(kind)
    student = two_stage(**KINDS[kind])
    methods = [HINT, RPN, dict(RCNN, mu=0.25, reg_weight=3.0)]
    losses = seeded_loss(
        distil(tmp_path, methods, student, two_stage(base=16, **KINDS[kind])), inputs, samples
    )
    plain = seeded_loss(build(student).train(), inputs, samples)
    scaled = [name for name in plain if "loss_cls" in name or "loss_bbox" in name]
    assert len(scaled) == (6 if kind == "cascade" else 2)
    for name in scaled:
        torch.testing.assert_close(losses[f"{name}_hard"], plain[name] * (0.25 if "cls" in name else 3))
    kinds = ("_hard", "_soft", "_bounded", "_hint", "loss_mask")
    assert all(name.endswith(kinds) for name in losses if "loss" in name)
    if kind == "mask":
        torch.testing.assert_close(losses["loss_mask"], plain["loss_mask"])


def test_student_and_teacher_run_once_and_no_further_than_needed(tmp_path):
    model = distil(tmp_path, [HINT, RPN, RCNN])
    calls = []
    for role, network in (("student", model.student), ("teacher", model.teacher.model)):
        for name in ("backbone", "neck", "rpn_head", "roi_head.bbox_roi_extractor", "roi_head.bbox_head"):
            network.get_submodule(name).register_forward_hook(
                lambda *args, key=(role, name): calls.append((*key, torch.is_grad_enabled()))
            )
    for student_loss in (True, False):
        calls.clear()
        model.student_loss = student_loss
        seeded_loss(model, *batch())
        assert len(calls) == len(set(calls)) == 10
        assert all(grad == (role == "student") for role, _, grad in calls)
    model = distil(tmp_path, [RCNN])
    model.teacher.model.rpn_head.register_forward_hook(lambda *args: calls.append("rpn"))
    seeded_loss(model, *batch())
    assert "rpn" not in calls


@pytest.mark.parametrize("student_loss", [True, False])
@pytest.mark.parametrize("kind", ["faster", "cascade", "agnostic", "sigmoid", "decoded", "double"])
@pytest.mark.parametrize("objects", [(0, 0), (2, 0)])
def test_every_parameter_has_a_finite_gradient_with_and_without_objects(
    tmp_path, kind, objects, student_loss
):
    inputs, samples = batch(objects=objects, size=(64, 64))
    methods = [HINT, RPN, RCNN]
    model = distil(
        tmp_path,
        methods,
        two_stage(**KINDS[kind]),
        two_stage(base=16, **KINDS[kind]),
        student_loss=student_loss,
    )
    losses = seeded_loss(model, inputs, samples)
    total(losses).backward()
    assert all(value.isfinite().all() for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad is None for p in model.teacher.model.parameters())


@pytest.mark.parametrize("student_loss", [True, False])
@pytest.mark.parametrize("kind", ["faster", "cascade"])
def test_batch_without_proposals_keeps_every_parameter_in_the_graph(tmp_path, kind, student_loss):
    """MMDetection leaves a cascade after the first stage then."""
    student = two_stage(**KINDS[kind])
    student.train_cfg.rpn_proposal.min_bbox_size = 10_000
    model = distil(
        tmp_path,
        [RPN, RCNN],
        student,
        two_stage(base=16, **KINDS[kind]),
        student_loss=student_loss,
    )
    losses = seeded_loss(model, *batch(objects=(0, 0), size=(64, 64)))
    total(losses).backward()
    assert total(losses).isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_student_better_than_its_teacher_by_the_margin_has_no_bounded_loss(tmp_path):
    network = good_teacher()
    with torch.no_grad():
        network.roi_head.bbox_head.fc_reg.bias += 100  # far from every truth
    for margin, positive in ((0.0, False), (1e6, True)):
        losses = seeded_loss(distil(tmp_path, rcnn(margin=margin), teacher=network), *batch())
        assert (losses["loss_bbox_bounded"] > 0) == positive


def test_background_weight_moves_the_soft_loss_alone(tmp_path):
    one, two, three = (
        seeded_loss(distil(tmp_path, rcnn(background_weight=weight)), *batch()) for weight in (1.0, 2.0, 3.0)
    )
    changed = {name for name, value in one.items() if not torch.equal(value, two[name])}
    assert changed == {"loss_cls_soft"}
    steps = [b["loss_cls_soft"] - a["loss_cls_soft"] for a, b in ((one, two), (two, three))]
    assert steps[0] > 0
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-6)


def test_box_coders_in_other_units_are_converted(tmp_path):
    """Deltas divided by twice the deviations say the same boxes."""
    results = []
    for scale in (1.0, 2.0):
        stds = [0.1 * scale, 0.1 * scale, 0.2 * scale, 0.2 * scale]
        coder = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds)
        network = good_teacher(0.1 / scale, head=dict(bbox_coder=coder))
        results.append(seeded_loss(distil(tmp_path, rcnn(), teacher=network), *batch()))
    torch.testing.assert_close(results[0]["loss_bbox_bounded"], results[1]["loss_bbox_bounded"])
    assert results[0]["loss_bbox_bounded"] > 0


def test_teacher_of_another_width_backbone_and_normalisation_teaches(tmp_path):
    teacher = two_stage(base=16, channels=24, head=dict(reg_class_agnostic=True))
    teacher.backbone.update(depth=34)
    teacher.data_preprocessor.update(mean=[103.53, 116.28, 123.675], std=[1.0] * 3, bgr_to_rgb=False)
    model = distil(tmp_path, [HINT, RPN, RCNN], teacher=teacher)
    losses = seeded_loss(model, *batch())
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert not model.teacher.renormalisation.is_identity


def test_single_stage_learns_from_a_cascades_first_and_the_other_way_round(tmp_path):
    model = distil(tmp_path, rcnn(), two_stage(), two_stage("cascade", base=16))
    assert model.methods[0].teacher_stage == [0]
    assert "loss_cls_soft" in seeded_loss(model, *batch())
    model = distil(tmp_path, rcnn(), two_stage("cascade"), two_stage(base=16))
    assert model.methods[0].teacher_stage == [0, 0, 0]
    assert "s2.loss_cls_soft" in seeded_loss(model, *batch())
    two = two_stage("cascade", base=16)
    for part in (two.roi_head.bbox_head, two.roi_head.stage_loss_weights, two.train_cfg.rcnn):
        part.pop()
    two.roi_head.num_stages = 2
    with pytest.raises(UnsupportedError, match="student's RoI head has 3 stages and the teacher's 2"):
        distil(tmp_path, rcnn(), two_stage("cascade"), two)


@pytest.mark.parametrize("speed", [dict(inference_mode=True), dict(channels_last=True), dict(fuse=True)])
def test_speed_options_of_the_teacher_change_no_loss(tmp_path, speed):
    results = []
    for options in (None, speed):
        model = distil(tmp_path, [RPN, RCNN], speed=options)
        losses = seeded_loss(model, *batch())
        total(losses).backward()
        results.append(dict(losses, gradient=model.backbone.conv1.weight.grad))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("student_loss", [True, False])
def test_mixed_precision_gives_nearly_the_same_losses_and_finite_gradients(tmp_path, student_loss):
    model = distil(tmp_path, [HINT, RPN, RCNN], student_loss=student_loss)
    plain = seeded_loss(model, *batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = seeded_loss(model, *batch())
    total(mixed).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for name in (
        "loss_hint",
        "loss_rpn_cls_soft",
        "loss_cls_soft",
    ):  # proposals depend on the rounding a little
        assert mixed[name].dtype == torch.float32
        assert mixed[name].item() == pytest.approx(plain[name].item(), rel=0.1)


# -- Classes by name -------------------------------------------------------------------------------------------


def test_settings_are_in_the_signature_and_classes_are_kept_beside_the_weights():
    names = list(inspect.signature(RCNNDistillation).parameters)
    shared = list(inspect.signature(TwoStageDistillation).parameters)
    assert names == [*shared[:-1], "classes", "init_cfg"]
    method = RCNNDistillation(mu=0.25, nu=2.0, rescale=True, classes=["cat"])
    assert (method.mu, method.nu, method.rescale, method.classes) == (0.25, 2.0, True, ("cat",))
    assert RCNNDistillation().classes is None


def test_mapped_probabilities_are_the_named_classes_and_the_others_join_the_background():
    mapping = ClassMapping(("cat", "dog"), ("ant", "dog", "cat"))
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 5
    ant, dog, cat, background = logits.softmax(1).unbind(1)
    expected = torch.stack([cat, dog, background + ant], dim=1)
    torch.testing.assert_close(mapping.logits(logits).softmax(1), expected)
    torch.testing.assert_close(mapping.logits(logits.half()).softmax(1), expected, rtol=1e-2, atol=1e-3)
    assert torch.equal(mapping.binary_logits(logits[:, :3]), logits[:, [2, 1]])
    deltas = torch.arange(12.0).view(1, 3, 4)
    assert torch.equal(mapping.deltas(deltas), deltas[:, [2, 1]])


@pytest.mark.parametrize("kind", ["faster", "sigmoid"])
def test_teacher_with_its_classes_in_another_order_teaches_the_same(tmp_path, kind):
    names, order = ("a", "b", "c"), [2, 0, 1]
    plain = good_teacher(**KINDS[kind])
    permuted = good_teacher(**KINDS[kind])
    with torch.no_grad():
        for part, size in (("fc_cls", 1), ("fc_reg", 4)):
            for parameter, source in zip(
                getattr(permuted.roi_head.bbox_head, part).parameters(),
                getattr(plain.roi_head.bbox_head, part).parameters(),
                strict=True,
            ):
                rows = [size * old + i for old in order for i in range(size)]
                parameter[: 3 * size] = source[rows]
    losses = seeded_loss(distil(tmp_path, rcnn(), two_stage(**KINDS[kind]), plain), *batch())
    model = distil(
        tmp_path, rcnn(classes=names), two_stage(**KINDS[kind]), permuted, [names[old] for old in order]
    )
    by_name = seeded_loss(model, *batch())
    unmapped = seeded_loss(distil(tmp_path, rcnn(), two_stage(**KINDS[kind]), permuted), *batch())
    for name in ("loss_cls_soft", "loss_bbox_bounded"):
        torch.testing.assert_close(by_name[name], losses[name], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(unmapped["loss_cls_soft"], losses["loss_cls_soft"], rtol=1e-3)


def test_teacher_with_more_classes_trains_its_student(tmp_path):
    config = two_stage(base=16, num_classes=5)
    model = distil(tmp_path, rcnn(classes=("e", "a", "c")), teacher=config, classes=tuple("abcde"))
    assert model.methods[0].mapping.index.tolist() == [4, 0, 2]
    total(seeded_loss(model, *batch())).backward()
    assert not any("mapping" in key or "to_student" in key for key in model.state_dict())
    # What the tools check before training: by name, nothing is left to complain of.
    _check_teacher_classes(model, ("e", "a", "c"))
    with pytest.raises(ConfigError, match="classes e, a, c are not the training data's a, e, c"):
        _check_teacher_classes(model, ("a", "e", "c"))


def test_only_methods_that_compare_classes_ask_for_their_order(tmp_path):
    for methods in ([HINT], [HINT, RPN]):
        _check_teacher_classes(distil(tmp_path, methods, classes=("a", "b", "c")), ("b", "a", "c"))
    with pytest.raises(ConfigError, match="class 0 is 'a' for the teacher and 'b' here"):
        _check_teacher_classes(distil(tmp_path, [HINT, RCNN], classes=("a", "b", "c")), ("b", "a", "c"))


@pytest.mark.parametrize(
    ("classes", "taught", "error", "message"),
    [
        (None, tuple("abcde"), UnsupportedError, "student has 3 classes and the teacher 5; name the student's"),
        (("ant", "bee", "bat"), ("ant", "bee", "cat", "dog", "cow"), ConfigError, "no class 'bat'; nearest: cat"),
        (("a", "b"), tuple("abcde"), ConfigError, "classes names 2 and the student has 3"),
        (("a", "a", "b"), tuple("abcde"), ConfigError, "names a class twice"),
        (("a", "b", "c"), None, ConfigError, "checkpoint records none"),
        (("a", "b", "c"), tuple("abc"), ConfigError, "records 3 for 5 classes"),
    ],
)  # fmt: skip
def test_classes_that_cannot_be_found_are_named(tmp_path, classes, taught, error, message):
    with pytest.raises(error, match=message) as caught:
        distil(tmp_path, rcnn(classes=classes), teacher=two_stage(base=16, num_classes=5), classes=taught)
    assert "\n" not in str(caught.value)


# -- Without labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["faster", "cascade"])
def test_without_labels_soft_terms_alone_train_and_no_label_is_read(tmp_path, kind):
    inputs, samples = batch(objects=(2, 1))
    model = distil(
        tmp_path, [HINT, RPN, RCNN], two_stage(**KINDS[kind]), good_teacher(**KINDS[kind]), student_loss=False
    )
    losses = seeded_loss(model, inputs, samples)
    assert all(name.endswith(("_soft", "_hint")) for name in losses)
    boxes = [value for name, value in losses.items() if name.endswith("loss_bbox_soft")]
    assert len(boxes) == (3 if kind == "cascade" else 1)
    assert all(value > 0 for value in boxes)
    for sample in samples:
        del sample.gt_instances, sample.ignored_instances
    again = seeded_loss(model, inputs, samples)
    assert all(torch.equal(again[name], value) for name, value in losses.items())


def test_without_labels_boxes_follow_the_teacher_only_where_it_sees_an_object(tmp_path):
    network = good_teacher()
    with torch.no_grad():
        network.roi_head.bbox_head.fc_cls.bias[-1] += 1000  # background everywhere
    model = distil(tmp_path, [RPN, RCNN], teacher=network, student_loss=False)
    losses = seeded_loss(model, *batch())
    assert losses["loss_bbox_soft"] == 0
    assert losses["loss_cls_soft"] > 0


def test_without_labels_the_student_comes_to_the_teacher(tmp_path):
    inputs, samples = batch(objects=(1, 1), size=(64, 64))
    model = distil(tmp_path, [RPN, RCNN], teacher=good_teacher(), student_loss=False)
    optimizer = torch.optim.Adam(model.roi_head.parameters(), lr=3e-3)
    first = seeded_loss(model, inputs, samples)
    for _ in range(20):
        optimizer.zero_grad()
        total(seeded_loss(model, inputs, samples)).backward()
        optimizer.step()
    last = seeded_loss(model, inputs, samples)
    assert last["loss_bbox_soft"] < 0.5 * first["loss_bbox_soft"]
    assert last["loss_cls_soft"] < first["loss_cls_soft"]


@pytest.mark.parametrize(
    ("methods", "left"),
    [([RPN], "roi_head"), ([RCNN], "rpn_head"), ([HINT], "rpn_head and roi_head")],
    ids=["rpn", "rcnn", "hint"],
)
def test_without_labels_heads_that_no_method_trains_are_named(tmp_path, methods, left):
    with pytest.raises(UnsupportedError, match=f"no method trains the {left} of FasterRCNN"):
        distil(tmp_path, methods, student_loss=False)


@pytest.mark.parametrize("method", [RPN, RCNN, HINT], ids=lambda method: method["type"])
def test_the_same_method_twice_is_refused_when_built(tmp_path, method):
    with pytest.raises(
        ConfigError, match=r"both change the own loss of the (rpn|roi)_head|call their loss 'loss_hint'"
    ):
        distil(tmp_path, [method, dict(method, name="second")])


def test_student_with_a_loss_of_its_own_is_refused(tmp_path, monkeypatch):
    """Trident has three images' worth of proposals for each image."""
    student = two_stage()
    kind = type(MODELS.build(copy.deepcopy(student)))
    monkeypatch.setattr(kind, "loss", lambda self, *args: {}, raising=False)
    for method in (RPN, RCNN):
        with pytest.raises(UnsupportedError, match=r"FasterRCNN .*a loss of its own"):
            distil(tmp_path, [method], student)


def test_the_teachers_roi_extractor_gets_contiguous_maps_in_any_memory_format(tmp_path):
    model = distil(tmp_path, rcnn(), speed=dict(channels_last=True))
    extractor = model.teacher.model.roi_head.bbox_roi_extractor
    seen = []
    extractor.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    model.loss(*batch())
    assert seen
    assert all(level.is_contiguous() for level in seen)


def test_other_classes_join_the_background_at_the_temperature():
    """One class kept of three, T = 4: the kept probability is that of all four logits at T."""
    logits = torch.tensor([[2.0, 6.0, -1.0, 0.5]])
    mapping = ClassMapping(["b"], ["a", "b", "c"])
    expected = (logits / 4).softmax(1)[0]
    joined = (mapping.logits(logits, 4.0) / 4).softmax(1)[0]
    torch.testing.assert_close(joined, torch.stack([expected[1], expected[[0, 2, 3]].sum()]))


def test_without_labels_a_mask_head_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="MaskRCNN has a mask head, which needs labels"):
        distil(tmp_path, [RPN, RCNN], two_stage("mask"), two_stage("mask", base=16), student_loss=False)


# -- What does not fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (small_paa(), {}, r"student PAA \(no roi_head\)"),
        (dict(head=dict(loss_cls=SIGMOID)), {}, "student's classifier is sigmoid and the teacher's softmax with"),
        ({}, dict(head=dict(bbox_coder=dict(type="TBLRBBoxCoder"))), "teacher's boxes are coded by TBLRBBoxCoder"),
        (dict(roi_head=dict(type="PISARoIHead")), {}, r"student FasterRCNN \(PISARoIHead\); it works with"),
        (dict(head=dict(loss_cls=SEESAW)), {}, "has 5 logits"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_name_when_built(tmp_path, student, teacher, message):
    student = student if "type" in student else two_stage(**student)
    with pytest.raises(UnsupportedError, match=message) as caught:
        distil(tmp_path, rcnn(), student, two_stage(base=16, **teacher))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["faster", "agnostic", "sigmoid", "decoded"])
def test_losses_of_a_stage_on_cuda_tensors_do_not_wait(tmp_path, kind):
    model = distil(tmp_path, rcnn(), two_stage(**KINDS[kind]), two_stage(base=16, **KINDS[kind]))
    method = model.methods[0]
    head = model.roi_head.bbox_head
    with fake_cuda():
        channels, deltas = head.fc_cls.out_features, head.fc_reg.out_features
        rois, boxes = torch.rand(20, 5, device="cuda"), torch.rand(20, 4, device="cuda")
        labels = torch.randint(0, 4, (20,), device="cuda")
        targets = RoITargets(labels, boxes[:, 0], boxes, boxes)
        scores, pred = torch.randn(20, channels, device="cuda"), torch.randn(20, deltas, device="cuda")
        outputs = StageOutputs(0, rois, scores, pred, targets)
        losses = method.stage_losses(head, method.to_student[0], outputs, scores, pred)
        assert {value.device.type for value in losses.values()} == {"cuda"}
