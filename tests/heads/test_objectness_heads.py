"""PAA heads with an objectness in the class score: conditional (COP) and implicit (IOP)."""

import copy
import math

from lad.assignment import candidates
from lad.base.replace import replaced
from lad.errors import ConfigError
from lad.losses import focal_kl_loss

import pytest
import torch
import torch.nn.functional as F
from helpers import build, fake_cuda, float64_mixtures, make_batch, save_checkpoint, small_paa
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData

VARIANTS = [(head, iou) for head in ("PAACOPHead", "PAAIOPHead") for iou in (True, False)]
LAD, SOFT = dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation", min_iou=0.1)


def config(head, iou=True, **settings):
    if head in ("PAAHead", "BatchedPAAHead"):
        return small_paa(head, **settings)
    settings.setdefault("loss_cls", dict(type="ProbabilityFocalLoss"))
    return small_paa(head, with_iou_branch=iou, **settings)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def run_head(head, seed=0, size=(3, 4), batch=2):
    """The head's outputs for one random level, and what went into the fusion."""
    seen = {}
    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: seen.update({name: output}))
        for name, module in head.named_children()
        if name in ("atss_cls", "coeff_conv", "objectness", "obj_bias")
    ]
    features = torch.randn(batch, 32, *size, generator=torch.Generator().manual_seed(seed)) * 3
    with torch.no_grad():
        outputs = head.forward_single(features, head.scales[0])
    for handle in handles:
        handle.remove()
    return outputs, seen


@pytest.mark.parametrize("border_prob", [0.5, 0.0])
def test_cop_score_is_the_formula_location_by_location(border_prob):
    head = build(config("PAACOPHead", border_prob=border_prob)).bbox_head
    (scores, _, _), seen = run_head(head)
    batch, classes, height, width = scores.shape
    for n in range(batch):
        for c in range(classes):
            for y in range(height):
                for x in range(width):
                    total = 0.0
                    for i in range(9):
                        row, column = y + i // 3 - 1, x + i % 3 - 1
                        inside = 0 <= row < height and 0 <= column < width
                        prob = sigmoid(seen["atss_cls"][n, c, row, column]) if inside else border_prob
                        total += sigmoid(seen["coeff_conv"][n, i, y, x]) * prob
                    assert scores[n, c, y, x].item() == pytest.approx(total / 9, abs=1e-6)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_cop_score_equals_the_authors_order_of_steps(kernel):
    """They unfold the zero-padded logits, take sigmoids of all copies, multiply and average."""
    head = build(config("PAACOPHead", coeff_kernel_size=kernel)).bbox_head
    (scores, _, _), seen = run_head(head, size=(4, 6))
    logits = seen["atss_cls"]
    batch, classes, height, width = logits.shape
    copies = F.unfold(logits.reshape(-1, 1, height, width), kernel, padding=kernel // 2)
    copies = copies.view(batch, classes, kernel**2, height, width)
    expected = (copies.sigmoid() * seen["coeff_conv"].sigmoid().unsqueeze(1)).mean(2)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)


def test_cop_hand_arithmetic_at_one_lonely_location():
    """All logits 0: class 1/2, coefficients 1/2. Authors' border: 1/2 * 1/2 = 1/4. Nothing outside: 1/9 of it."""
    for border_prob, expected in ((0.5, 0.25), (0.0, 0.25 / 9)):
        head = build(config("PAACOPHead", border_prob=border_prob)).bbox_head
        for layer in (head.coeff_conv, head.atss_cls):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        (scores, _, _), _ = run_head(head, size=(1, 1))
        torch.testing.assert_close(scores, torch.full((2, 3, 1, 1), expected))


def test_iop_score_is_the_formula_location_by_location():
    head = build(config("PAAIOPHead")).bbox_head
    (scores, _, _), seen = run_head(head)
    zeros = 0
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, scores.shape)).tolist():
        own = sigmoid(seen["atss_cls"][n, c, y, x]) - sigmoid(seen["obj_bias"][n, 0, y, x])
        expected = max(own, 0) * sigmoid(seen["objectness"][n, 0, y, x])
        assert scores[n, c, y, x].item() == pytest.approx(expected, abs=1e-6)
        zeros += own < 0
    assert 0 < zeros < scores.numel(), "both sides of the rectifier must be seen"


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
def test_initial_scores_are_about_half_of_paas(head, iou):
    """PAA starts at 0.01. COP: 0.01 * 1/2 away from the border; IOP: (0.01 - 0.0001) * 1/2."""
    torch.manual_seed(0)
    model = MODELS.build(config(head, iou))
    model.init_weights()
    (scores, _, _), _ = run_head(model.bbox_head, size=(6, 6))
    assert scores[:, :, 1:-1, 1:-1].mean().item() == pytest.approx(0.005, rel=0.1)


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
@pytest.mark.parametrize("objects", [(3, 0, 7), (0, 0)])
def test_gradients_reach_every_parameter(head, iou, objects):
    model = build(config(head, iou)).train()
    inputs, samples = make_batch(objects)
    losses = model.loss(inputs, samples)
    assert list(losses) == ["loss_cls", "loss_bbox", "loss_iou"][: 2 + iou]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if any(objects):
        # A level without positives has no box loss for its scale.
        named = model.bbox_head.named_parameters()
        assert all(p.grad.any() for name, p in named if not name.startswith("scales."))
    else:
        assert losses["loss_bbox"] == 0
        # All priors are background: 3/4 p^2 (-log(1 - p)) a class, over the number of images.
        scores = torch.cat([level.flatten() for level in model._forward(inputs)[0]]).double()
        expected = (-0.75 * scores**2 * torch.log1p(-scores)).sum() / len(samples)
        torch.testing.assert_close(losses["loss_cls"].double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
@pytest.mark.parametrize("objects", [(3, 0, 7), (0, 0)])
def test_losses_equal_mmdetections_image_by_image_head_on_the_same_outputs(head, iou, objects):
    model = build(config(head, iou)).train()
    inputs, samples = make_batch(objects)
    instances, metas = [s.gt_instances for s in samples], [s.metainfo for s in samples]
    reference = build(small_paa("PAAHead")).bbox_head
    reference.loss_cls = model.bbox_head.loss_cls
    with torch.no_grad():
        cls_scores, bbox_preds, iou_preds = model._forward(inputs)
        assert (iou_preds is None) != iou
        losses = model.bbox_head.loss_by_feat(cls_scores, bbox_preds, iou_preds, instances, metas)
        iou_preds = iou_preds or [level[:, :1] * 0 for level in bbox_preds]
        with float64_mixtures():
            expected = reference.loss_by_feat(cls_scores, bbox_preds, iou_preds, instances, metas)
    assert losses.keys() == expected.keys() - (set() if iou else {"loss_iou"})
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_uniform_box_loss_without_an_iou_branch_is_the_mean_over_the_positives():
    inputs, samples = make_batch((3, 2))
    uniform = build(config("PAACOPHead", False, box_loss_weight="uniform")).train()
    boxes = []
    head = uniform.bbox_head
    original = head.loss_bbox.forward

    def remember(pred, target, **kwargs):
        boxes.append(original(pred, target, **kwargs))
        return boxes[-1]

    chosen = []
    reassign = head.reassign
    with (
        replaced(head, "reassign", lambda *args: chosen.append(reassign(*args)) or chosen[-1]),
        replaced(head.loss_bbox, "forward", remember),
    ):
        losses = uniform.loss(inputs, samples)
    of_positives = boxes[-1][chosen[0].positive.flatten()]
    assert len(of_positives) > 5
    torch.testing.assert_close(losses["loss_bbox"], of_positives.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
@pytest.mark.parametrize(("nms_pre", "voting"), [(1000, True), (20, True), (20, False)])
def test_predictions_equal_mmdetections_for_scores_that_are_not_squashed_twice(head, iou, nms_pre, voting):
    """Its head takes sigmoids and sqrt(class * IoU); so class logits of p, or of p^2 and an IoU of 1, give the same."""
    model = build(config(head, iou)).eval()
    inputs, samples = make_batch((1, 1), shapes=[(96, 128), (80, 100)])
    metas = [dict(sample.metainfo, scale_factor=(0.5, 0.8)) for sample in samples]
    reference = build(small_paa("PAAHead")).bbox_head
    for own in (model.bbox_head, reference):
        own.with_score_voting = voting
        own.test_cfg.nms_pre, own.test_cfg.score_thr = nms_pre, 0.02
    with torch.no_grad():
        outputs = model._forward(inputs)
        results = model.bbox_head.predict_by_feat(*outputs, batch_img_metas=metas, rescale=True)
        probs, bbox_preds, iou_preds = outputs
        # In float64: p^2 must survive the way to its logit and back.
        logits = [torch.logit(level.double() if iou else level.double() ** 2) for level in probs]
        iou_preds = iou_preds or [level.new_full((2, 1, *level.shape[2:]), 200.0) for level in logits]
        expected = reference.predict_by_feat(
            logits, bbox_preds, iou_preds, batch_img_metas=metas, rescale=True
        )
    for result, wanted in zip(results, expected, strict=True):
        assert len(wanted) > 10
        torch.testing.assert_close(result.scores.double(), wanted.scores.double(), rtol=1e-4, atol=1e-6)
        assert torch.equal(result.labels, wanted.labels)
        torch.testing.assert_close(result.bboxes.double(), wanted.bboxes.double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
def test_detector_predicts_its_heads_predictions(head, iou):
    model = build(config(head, iou)).eval()
    model.bbox_head.test_cfg.score_thr = 0.0
    inputs, samples = make_batch((1, 0))
    metas = [sample.metainfo for sample in samples]
    with torch.no_grad():
        expected = model.bbox_head.predict_by_feat(*model._forward(inputs), batch_img_metas=metas)
        results = model.predict(inputs, samples, rescale=False)
    for result, wanted in zip(results, expected, strict=True):
        assert len(wanted) > 25
        assert torch.equal(result.pred_instances.bboxes, wanted.bboxes)
        assert torch.equal(result.pred_instances.scores, wanted.scores)
        assert torch.equal(result.pred_instances.labels, wanted.labels)


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
def test_half_precision_scores_are_float32_and_near_those_in_full_precision(head, iou):
    model = build(config(head, iou)).train()
    inputs, samples = make_batch((3, 2))
    with torch.no_grad():
        expected = model._forward(inputs)[0]
    ground_truth = [sample.gt_instances for sample in samples], [sample.metainfo for sample in samples]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model._forward(inputs)
        losses = model.bbox_head.loss_by_feat(*outputs, *ground_truth)
    scores = outputs[0]
    # The same outputs in float32: labels may flip between outputs of two precisions.
    precise = [None if levels is None else [level.float() for level in levels] for levels in outputs]
    exact = model.bbox_head.loss_by_feat(*precise, *ground_truth)
    for own, wanted in zip(scores, expected, strict=True):
        assert own.dtype == torch.float32
        # A digit of bfloat16; how its convolutions round depends on the processor.
        assert (own - wanted).abs().mean() < torch.finfo(torch.bfloat16).eps
    for name, value in exact.items():
        torch.testing.assert_close(losses[name].float(), value, rtol=0.01, atol=0)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
def test_checkpoint_loads_strictly_and_paas_weights_lack_the_objectness_alone(head, iou, tmp_path):
    model = build(config(head, iou), seed=1)
    path = save_checkpoint(model, tmp_path / "head.pth")
    again = build(config(head, iou), seed=2)
    again.load_state_dict(torch.load(path)["state_dict"], strict=True)
    inputs, _ = make_batch((1, 1))
    with torch.no_grad():
        for own, wanted in zip(
            again.eval()._forward(inputs)[0], model.eval()._forward(inputs)[0], strict=True
        ):
            assert torch.equal(own, wanted)
    missing, unexpected = again.load_state_dict(build(small_paa("PAAHead")).state_dict(), strict=False)
    new = ("coeff_conv",) if head == "PAACOPHead" else ("objectness", "obj_bias")
    assert set(missing) == {f"bbox_head.{name}.{part}" for name in new for part in ("weight", "bias")}
    assert len(unexpected) == (0 if iou else 2)


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
def test_loss_on_cuda_inputs_waits_for_the_device_once(head, iou, monkeypatch):
    fetched = []
    monkeypatch.setattr(candidates, "fetch", lambda values: fetched.append(values) or [9, 1, 1, 1])
    with fake_cuda():
        with torch.device("cuda"):
            own = MODELS.build(config(head, iou)).bbox_head
        features = [
            torch.randn(2, 32, *size, device="cuda") for size in [(12, 16), (6, 8), (3, 4), (2, 2), (1, 2)]
        ]
        instances = [
            InstanceData(
                bboxes=torch.rand(count, 4, device="cuda"),
                labels=torch.zeros(count, dtype=torch.long, device="cuda"),
            )
            for count in (4, 0)
        ]
        metas = [dict(img_id=i, img_shape=(96, 128), pad_shape=(96, 128)) for i in range(2)]
        losses = own.loss_by_feat(*own(features), instances, metas)
        assert all(value.device.type == "cuda" for value in losses.values())
    assert len(fetched) == 1


# Distillation


def distil(tmp_path, student, teacher, methods, **settings):
    path = save_checkpoint(build(teacher, 1), tmp_path / "teacher.pth")
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(copy.deepcopy(teacher), checkpoint=path),
            methods=copy.deepcopy(methods),
            **settings,
        )
    )
    model.student.load_state_dict(build(student).state_dict())
    return model.train()


def labels_of(head, loss):
    """The label of each anchor in the head's class loss."""
    original, seen = head.loss_cls.forward, []
    with replaced(
        head.loss_cls, "forward", lambda *args, **kw: seen.append(args[1]) or original(*args, **kw)
    ):
        losses = loss()
    return seen[-1], losses  # the last call is the loss over all anchors


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (("PAACOPHead", True), ("PAAHead", True)),
        (("PAACOPHead", False), ("BatchedPAAHead", True)),
        (("BatchedPAAHead", True), ("PAACOPHead", True)),
        (("PAAHead", True), ("PAACOPHead", False)),
        (("BatchedPAAHead", True), ("PAAIOPHead", False)),
        (("PAAIOPHead", False), ("PAACOPHead", True)),
    ],
)
def test_students_positives_are_those_that_the_teacher_would_choose_alone(student, teacher, tmp_path):
    student_config, teacher_config = config(*student), config(*teacher, base=16)
    model = distil(tmp_path, student_config, teacher_config, [LAD])
    inputs, samples = make_batch((4, 0, 6), size=(128, 128))
    alone = build(teacher_config, 1).eval()
    alone.training = alone.bbox_head.training = True
    with float64_mixtures():
        chosen, losses = labels_of(model.bbox_head, lambda: model.loss(inputs, copy.deepcopy(samples)))
        taught, _ = labels_of(alone.bbox_head, lambda: alone.loss(inputs, copy.deepcopy(samples)))
        own, _ = labels_of(model.bbox_head, lambda: model.student.loss(inputs, copy.deepcopy(samples)))
    assert torch.equal(chosen, taught)
    assert (chosen < 3).any()
    assert not torch.equal(chosen, own), "the control: alone it would choose otherwise"
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("teacher", [("PAACOPHead", True), ("PAAIOPHead", False)])
def test_remembered_teacher_chooses_as_the_computed_one(teacher, tmp_path):
    student_config, teacher_config = config("PAACOPHead", False), config(*teacher, base=16)
    remembering = dict(LAD, cache=dict(dir=str(tmp_path / "cache")))
    model = distil(tmp_path, student_config, teacher_config, [remembering])
    inputs, samples = make_batch((3, 2), size=(128, 128))
    data = dict(inputs=[(image * 50 + 100).clamp(0, 255).byte() for image in inputs], data_samples=samples)
    data = model.data_preprocessor(data, training=True)
    first = model.loss(data["inputs"], copy.deepcopy(data["data_samples"]))
    calls = []
    model.teacher.model.backbone.register_forward_hook(lambda *args: calls.append(1))
    second = model.loss(data["inputs"], copy.deepcopy(data["data_samples"]))
    assert not calls
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (("PAACOPHead", True), ("BatchedPAAHead", True)),
        (("BatchedPAAHead", True), ("PAACOPHead", False)),
        (("PAAIOPHead", False), ("PAAHead", True)),
        (("PAAIOPHead", False), ("PAAIOPHead", False)),
    ],
)
def test_soft_labels_compare_logits_and_leave_out_an_iou_that_is_missing(student, teacher, tmp_path):
    model = distil(tmp_path, config(*student), config(*teacher, base=16), [SOFT], student_loss=False)
    inputs, samples = make_batch((3, 2))
    model.student.eval()  # batch statistics as in the reference below
    losses = model.loss(inputs, samples)
    assert ("loss_soft_iou" in losses) == student[1]
    if student[1]:
        assert (losses["loss_soft_iou"] != 0) == teacher[1]
    with torch.no_grad():
        logits = []
        for head, detector in ((student[0], model.student), (teacher[0], model.teacher.model)):
            outputs = detector.bbox_head(detector.extract_feat(inputs))
            scores = torch.cat([level.flatten(2) for level in outputs[0]], dim=2)
            if head not in ("PAAHead", "BatchedPAAHead"):
                scores = scores.clamp(1e-6, 1 - 1e-6)
                scores = scores.log() - (1 - scores).log()
            logits.append(scores)
        # The divisor: overlaps of the teacher's boxes (the last outputs) with the ground truth.
        sizes = [level.shape[-2:] for level in outputs[0]]
        anchors = torch.cat(detector.bbox_head.prior_generator.grid_priors(sizes, device="cpu"))
        deltas = torch.cat([level.flatten(2) for level in outputs[1]], dim=2).transpose(1, 2)
        overlaps = [
            bbox_overlaps(
                detector.bbox_head.bbox_coder.decode(anchors, own, max_shape=sample.img_shape),
                sample.gt_instances.bboxes,
            ).amax(1)
            for own, sample in zip(deltas, samples, strict=True)
        ]
        total = sum(best[best > 0.1].sum() for best in overlaps).clamp(min=2)
        expected = 2.0 * focal_kl_loss(*logits, 0.5).sum() / total
    torch.testing.assert_close(losses["loss_soft_cls"], expected, rtol=1e-4, atol=1e-5)
    sum(losses.values()).backward()
    # A student's IoU branch that nobody teaches still takes part.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("head", "iou"), VARIANTS)
def test_soft_labels_of_a_teacher_with_the_students_weights_teach_nothing(head, iou, tmp_path):
    own = config(head, iou)
    model = distil(tmp_path, own, own, [SOFT], student_loss=False)
    model.student.load_state_dict(model.teacher.model.state_dict())
    model.student.eval()
    for value in model.loss(*make_batch((3, 2))).values():
        assert value.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("head", ["PAACOPHead", "PAAIOPHead"])
def test_soft_labels_bring_the_student_to_the_teacher(head, tmp_path):
    model = distil(tmp_path, config(head, False), config("BatchedPAAHead"), [SOFT], student_loss=False)
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


# Mistakes


def test_a_loss_of_logits_is_refused_for_probabilities_and_the_other_way_round():
    with pytest.raises(
        ConfigError, match=r"PAACOPHead predicts probabilities.*FocalLoss does not.*ProbabilityFocalLoss"
    ):
        MODELS.build(config("PAACOPHead", loss_cls=dict(type="FocalLoss")))
    with pytest.raises(ConfigError, match=r"BatchedPAAHead predicts logits.*type='FocalLoss'"):
        MODELS.build(small_paa(loss_cls=dict(type="ProbabilityFocalLoss")))


def test_mmdetections_focal_loss_of_probabilities_is_accepted_too():
    losses = [
        build(config("PAACOPHead", loss_cls=loss)).train().loss(*make_batch((2, 1)))["loss_cls"]
        for loss in (dict(type="FocalLoss", activated=True), dict(type="ProbabilityFocalLoss"))
    ]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(coeff_kernel_size=2), "coeff_kernel_size must be odd.*got 2"),
        (dict(coeff_kernel_size=0), "coeff_kernel_size must be odd.*got 0"),
        (dict(border_prob=2.0), r"border_prob must be in \[0, 1\], got 2.0"),
        (dict(anchor_generator=dict(ratios=[0.5, 1.0])), "gives 2 anchors a location"),
    ],
)
def test_settings_that_do_not_work_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config("PAACOPHead", **settings))


def test_partly_remembered_teacher_without_an_iou_branch_shares_its_outputs(tmp_path):
    methods = [dict(LAD, cache=dict(dir=str(tmp_path / "cache"))), SOFT]
    networks = config("PAACOPHead", False), config("PAAIOPHead", False, base=16)
    model, computing = distil(tmp_path, *networks, methods), distil(tmp_path, *networks, [LAD, SOFT])
    inputs, samples = make_batch((3, 2, 1), size=(128, 128))
    images = [(image * 50 + 100).clamp(0, 255).byte() for image in inputs]
    for batch in ([0, 1], [0, 2]):
        own = [copy.deepcopy(samples[i]) for i in batch]
        data = model.data_preprocessor(
            dict(inputs=[images[i] for i in batch], data_samples=own), training=True
        )
        losses = model.loss(data["inputs"], copy.deepcopy(data["data_samples"]))
        for name, value in computing.loss(data["inputs"], data["data_samples"]).items():
            torch.testing.assert_close(losses[name], value)
