"""Predictions of a DETR teacher, matched one to one with those of a DETR of any kind."""

from __future__ import annotations

import copy
import itertools
import math
import re
from functools import partial

from lad.analysis.dry_run import describe
from lad.errors import ConfigError, UnsupportedError
from lad.methods.transformers.comparison import build_answer_losses
from lad.methods.transformers.decoding import Answers, decode_own
from lad.methods.transformers.matching import gather, match, pair_costs

import numpy as np
import pytest
import torch
from detr_detectors import (
    DETRS,
    distil_detr,
    features_of,
    sample_of,
    seeded_loss,
    small_conditional,
    small_dab,
    small_detr,
    trained_like,
)
from helpers import build, distillation_of, fake_cuda, make_batch, save_checkpoint, small_paa
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS

FAMILIES = {family: partial(small_detr, family) for family in DETRS}
FAMILIES |= dict(dab=small_dab, conditional=small_conditional)
BATCH = dict(objects=(3, 0), size=(96, 128), shapes=[(64, 128), (96, 90)])
TERMS = ["loss_matched_cls", "loss_matched_bbox", "loss_matched_iou"]
#: Random weights score about 0.01.
METHOD = dict(type="MatchedQueryDistillation", min_score=0.0)


def distil(student, teacher, folder, method=METHOD, **settings):
    return distil_detr(student, teacher, folder, method, **settings)


def random_answers(seed, layers=2, images=2, queries=5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return Answers(
        torch.randn(layers, images, queries, classes, generator=generator) * 3,
        torch.rand(layers, images, queries, 4, generator=generator) * 0.5 + 0.2,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_dry_run_names_the_two_decoders(family, tmp_path):
    config = FAMILIES[family]()
    report = describe(distil(config, config, tmp_path))
    assert re.search(r"decoder .* decoder .* matched queries", report)
    assert all(term in report for term in TERMS)


# -- Matching -------------------------------------------------------------------------------------------------------


def test_cost_of_a_pair_by_hand():
    """Probabilities 3/4 and 1/2; a box of 10 x 10 pixels' 0.2 x 0.4 beside 0.4 x 0.4: L1 0.2, GIoU 1/2."""
    taught = Answers(torch.full((1, 1, 1, 1), math.log(3)), torch.tensor([[[[0.5, 0.5, 0.4, 0.4]]]]))
    own = Answers(torch.zeros(1, 1, 1, 1), torch.tensor([[[[0.5, 0.5, 0.2, 0.4]]]]))
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for factors, wanted in {
        (1, 0, 0): divergence,
        (0, 1, 0): 0.2,
        (0, 0, 1): 0.5,
        (2, 5, 3): 2 * divergence + 1.0 + 1.5,
    }.items():
        found = pair_costs(own, taught, [sample_of((10, 10))], *factors)
        torch.testing.assert_close(found, torch.full((1, 1, 1, 1), wanted))


def test_costs_are_those_of_the_losses_of_each_pair_in_the_pixels_of_each_image():
    own, taught = random_answers(0, queries=4), random_answers(1, queries=3)
    samples = [sample_of((40, 100)), sample_of((30, 30))]
    found = pair_costs(own, taught, samples, 1.0, 5.0, 2.0)
    losses = build_answer_losses("test", *(dict(type=name) for name in ("KDLoss", "L1Loss", "GIoULoss")))
    for layer, image, mine, other in itertools.product(range(2), range(2), range(4), range(3)):
        height, width = samples[image].img_shape
        boxes = [
            answers.bbox_preds[layer, image, [query]] for answers, query in ((own, mine), (taught, other))
        ]
        corners = [
            torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], dim=1)
            * torch.tensor([width, height] * 2)
            for box in boxes
        ]
        logits = own.cls_scores[layer, image, [mine]], taught.cls_scores[layer, image, [other]]
        parts = [losses.cls(*logits), losses.bbox(*boxes) * 4, losses.iou(*corners)]
        wanted = parts[0] + 5 * parts[1] + 2 * parts[2]
        torch.testing.assert_close(found[layer, image, mine, other], wanted, rtol=1e-4, atol=1e-4)


def test_an_answer_costs_nothing_beside_itself_and_something_beside_any_other():
    answers = random_answers(3, queries=20)
    costs = pair_costs(answers, answers, [sample_of((50, 70))] * 2, 1.0, 5.0, 2.0)
    own = torch.eye(20, dtype=torch.bool)
    assert costs[..., own].abs().max() < 1e-4
    assert costs[..., ~own].min() > 1e-2


def test_autocast_changes_no_cost():
    own, taught = random_answers(0), random_answers(1)
    samples = [sample_of((9, 9))] * 2
    exact = pair_costs(own, taught, samples, 1.0, 5.0, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pair_costs(own, taught, samples, 1.0, 5.0, 2.0), exact)


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(0, 10**6))
def test_match_has_the_least_weighted_cost_of_all(count, seed):
    generator = np.random.default_rng(seed)
    costs = torch.from_numpy(generator.random((2, 2, 5, count)))
    weight = torch.from_numpy(generator.random((2, count)))
    found = match(costs, weight)
    columns = torch.arange(count)
    for layer, image in itertools.product(range(2), range(2)):
        own = found[layer, image]
        assert len(set(own.tolist())) == count
        least = min(
            (costs[layer, image, list(rows), columns] * weight[image]).sum().item()
            for rows in itertools.permutations(range(5), count)
        )
        assert (costs[layer, image, own, columns] * weight[image]).sum().item() == pytest.approx(least)


@settings(max_examples=25)
@given(st.integers(0, 5), st.integers(0, 10**6))
def test_predictions_without_weight_change_no_match_of_the_others(count, seed):
    generator = np.random.default_rng(seed)
    costs = torch.from_numpy(generator.random((2, 2, 6, 6)))
    weight = torch.zeros(2, 6, dtype=torch.double)
    chosen = [generator.permutation(6)[:count] for _ in range(2)]
    for image, columns in enumerate(chosen):
        weight[image, columns] = torch.from_numpy(generator.random(count) + 0.1)
    found = match(costs, weight)
    assert found.sort(-1).values.tolist() == [[[0, 1, 2, 3, 4, 5]] * 2] * 2
    for image, columns in enumerate(chosen):
        alone = match(costs[:, image : image + 1, :, columns], weight[image : image + 1, columns])
        assert torch.equal(found[:, image, columns], alone[:, 0])


def test_prediction_without_weight_takes_no_query_from_another():
    costs = torch.tensor([[0.0, 1.0], [9.0, 2.0]])[None, None]
    assert match(costs, torch.tensor([[1.0, 1.0]])).tolist() == [[[0, 1]]]
    assert match(costs, torch.tensor([[0.0, 1.0]])).tolist() == [[[1, 0]]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_answers_that_are_no_numbers_are_matched_last(value):
    costs = torch.tensor([[value, value], [1.0, 3.0], [2.0, 1.0]])[None, None]
    assert match(costs, torch.ones(1, 2)).tolist() == [[[1, 2]]]


def test_gathered_answers_are_those_of_the_queries():
    answers = random_answers(0, queries=4)
    queries = torch.tensor([[[3, 0], [1, 2]], [[0, 1], [2, 3]]])
    found = gather(answers, queries)
    assert torch.equal(found.cls_scores[1, 0, 1], answers.cls_scores[1, 0, 1])
    assert torch.equal(found.bbox_preds[0, 0], answers.bbox_preds[0, 0, [3, 0]])
    assert torch.equal(found.bbox_preds[1, 1], answers.bbox_preds[1, 1, [2, 3]])


def test_costs_stay_on_the_device():
    with fake_cuda():
        own, taught = (
            Answers(torch.randn(2, 3, 5, 4, device="cuda"), torch.rand(2, 3, 5, 4, device="cuda"))
            for _ in range(2)
        )
        assert pair_costs(own, taught, [sample_of((9, 9))] * 3, 1.0, 5.0, 2.0).device.type == "cuda"


# -- The method -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_with_the_students_weights_gives_no_loss(family, tmp_path):
    config = FAMILIES[family](layers=2)
    model = distil(config, config, tmp_path, seeds=(0, 0))
    losses = seeded_loss(model, make_batch(**BATCH))
    assert torch.stack([losses[name] for name in TERMS]).max() < 1e-3


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("one_stage", "dino"), ("dino", "conditional"), ("conditional", "two_stage"), ("dab", "one_stage")],
)
def test_other_kinds_widths_layers_and_numbers_of_queries(student, teacher, tmp_path):
    """Own loss and predictions are the student's; gradients reach it before and behind its decoder, and no teacher."""
    config = FAMILIES[student]()
    model = distil(config, FAMILIES[teacher](base=16, queries=30, layers=3), tmp_path)
    batch = make_batch(**BATCH)
    plain, taught = seeded_loss(model.student, batch), seeded_loss(model, batch)
    assert taught.keys() - plain.keys() == set(TERMS)
    assert all(torch.equal(taught[name], value) for name, value in plain.items())
    assert all(taught[name].isfinite() and taught[name] > 0 for name in TERMS)
    assert model.methods[0].pairs.tolist() == [1, 2]
    sum(taught[name] for name in TERMS).backward()
    reached = {
        name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }
    for part in ("backbone.", "neck.", "encoder.layers.0.", "decoder.layers.1.", "bbox_head."):
        assert any(name.startswith(part) for name in reached), part
    assert not any(name.startswith("dn_query_generator") for name in reached)
    assert all(value.grad is None for value in model.teacher.model.parameters())
    assert list(model.state_dict()) == list(MODELS.build(copy.deepcopy(config)).state_dict())


@pytest.mark.parametrize("family", ["one_stage", "dino"])
def test_student_learns_the_best_predictions_of_the_teacher(family, tmp_path, monkeypatch):
    """Those of the highest scores of the last layer, in every layer, down to the least score."""
    from lad.methods.transformers import matched_queries

    given = []
    compare = matched_queries.compare_answers
    monkeypatch.setattr(
        matched_queries, "compare_answers", lambda *args: given.append(args) or compare(*args)
    )
    model = distil(
        FAMILIES[family](), FAMILIES[family](base=16), tmp_path, method=dict(METHOD, num_queries=7)
    )
    inputs, samples = make_batch(**BATCH)
    seeded_loss(model, (inputs, samples))
    with torch.no_grad():
        teacher = model.teacher.model
        decoded = decode_own(teacher, features_of(teacher, inputs), "neck", samples)
        scores, boxes = teacher.bbox_head(**decoded)
    best = scores[-1].sigmoid().amax(-1).topk(7, dim=1).indices
    for layer, image in itertools.product(range(2), range(2)):
        torch.testing.assert_close(given[0][2].cls_scores[layer, image], scores[layer, image, best[image]])
        torch.testing.assert_close(given[0][2].bbox_preds[layer, image], boxes[layer, image, best[image]])
    assert given[0][1].cls_scores.shape == (2, 2, 7, 3)


def test_denoising_queries_are_not_matched(tmp_path):
    """They come before the student's own, whose number is that of its config."""
    model = distil(FAMILIES["dino"](), FAMILIES["one_stage"](base=16, queries=30), tmp_path)
    batch = make_batch(**BATCH)
    denoised = seeded_loss(model, batch)
    assert any("dn_" in name for name in denoised)
    twin = copy.deepcopy(model)
    twin.student.training = twin.student.bbox_head.training = False  # no denoising queries
    inputs, samples = batch
    with torch.no_grad():
        decoded = decode_own(twin.student, features_of(twin.student, inputs), "neck", samples)
        outputs = twin.student.bbox_head(**decoded)
        method = twin.methods[0]
        step = Step(twin, inputs, samples, outputs)
        found = method.losses(step)
    for name in TERMS:
        torch.testing.assert_close(found[name], denoised[name].detach(), rtol=1e-4, atol=1e-4)


class Step:
    """What the method reads of a step, with given outputs of the student's head."""

    def __init__(self, model, inputs, samples, outputs):
        self.student = model.student
        self.data_samples = samples
        self.outputs = dict(bbox_head=outputs)
        self.teacher = model.teacher.view(inputs, samples, ("neck",))


def test_student_of_fewer_queries_learns_the_best_predictions(tmp_path):
    model = distil(FAMILIES["one_stage"](queries=6), FAMILIES["one_stage"](base=16, queries=30), tmp_path)
    losses = seeded_loss(model, make_batch(**BATCH))
    assert all(losses[name] > 0 for name in TERMS)


def test_predictions_below_the_least_score_teach_nothing(tmp_path):
    """All of random weights are, at 0.9."""
    config = FAMILIES["one_stage"]()
    model = distil(config, FAMILIES["one_stage"](base=16), tmp_path, method=dict(METHOD, min_score=0.9))
    losses = seeded_loss(model, make_batch(**BATCH))
    assert all(losses[name] == 0 for name in TERMS)
    total, _ = model.parse_losses(losses)
    plain, _ = model.student.parse_losses(seeded_loss(model.student, make_batch(**BATCH)))
    torch.testing.assert_close(total, plain, rtol=1e-6, atol=1e-6)


def test_teacher_runs_once_a_step_without_gradient_and_the_student_decodes_once(tmp_path):
    model = distil(FAMILIES["dino"](), FAMILIES["dino"](base=16), tmp_path)
    calls = []
    for owner, network in (("teacher", model.teacher.model), ("student", model.student)):
        for name in ("backbone", "encoder", "decoder"):
            getattr(network, name).register_forward_hook(
                lambda *args, key=(owner, name): calls.append((*key, torch.is_grad_enabled()))
            )
    model.teacher.model.dn_query_generator = None
    seeded_loss(model, make_batch(**BATCH))
    parts = ("backbone", "encoder", "decoder")
    assert calls == [("student", part, True) for part in parts] + [("teacher", part, False) for part in parts]


@pytest.mark.parametrize("speed", [{}, dict(bfloat16=True, inference_mode=True)])
def test_half_precision(speed, tmp_path):
    model = distil(FAMILIES["dino"](), FAMILIES["one_stage"](base=16), tmp_path, speed=speed)
    exact = seeded_loss(model, make_batch(**BATCH))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = seeded_loss(model, make_batch(**BATCH))
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
    for name in TERMS:
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], exact[name], rtol=0.5, atol=0.2)


def test_classes_are_found_by_name(tmp_path):
    """A teacher of the student's weights, with its classes in another order, gives no loss."""
    config = FAMILIES["one_stage"]()
    model = distil(
        config,
        FAMILIES["one_stage"](num_classes=4),
        tmp_path,
        method=dict(METHOD, classes=["a", "b", "c"]),
        meta=dict(dataset_meta=dict(classes=("c", "d", "a", "b"))),
    )
    twin = trained_like(config, 0).state_dict()
    teacher = model.teacher.model
    for name, value in teacher.state_dict().items():
        if "fc_cls" in name or "cls_branches" in name:
            value[torch.tensor([2, 3, 0])] = twin[name]
        else:
            value.copy_(twin[name])
    losses = seeded_loss(model, make_batch(**BATCH))
    assert torch.stack([losses[name] for name in TERMS]).max() < 1e-3


def test_peer_teaches():
    networks = dict(a=FAMILIES["dino"](), b=FAMILIES["one_stage"](base=16))
    methods = [dict(METHOD, learner="a", taught_by="b")]
    model = MODELS.build(dict(type="DistillationDetector", networks=networks, methods=methods))
    model.init_weights()
    losses = seeded_loss(model.train(), make_batch(**BATCH))
    names = [name for name in losses if "loss_matched" in name]
    assert len(names) == 3
    sum(losses[name] for name in names).backward()
    reached = {
        name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }
    assert reached
    assert not any(name.startswith("distillation.") for name in reached)


# -- Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (small_paa(), small_detr("dino"), "the student is a PAA.*DetectionDistillation"),
        (small_detr("dino"), small_paa(), "the teacher is a PAA"),
    ],
    ids=["paa-dino", "dino-paa"],
)
def test_detectors_without_queries_are_refused(student, teacher, message, tmp_path):
    with pytest.raises(UnsupportedError, match=message) as refused:
        distillation_of(tmp_path, copy.deepcopy(student), copy.deepcopy(teacher), METHOD)
    assert "\n" not in str(refused.value)


def test_detector_that_decodes_in_another_way_is_refused(tmp_path):
    @MODELS.register_module(force=True)
    class UnknownDecoderDINO(DINO):
        def forward_decoder(self, *args, **kwargs):
            return super().forward_decoder(*args, **kwargs)

    with pytest.raises(UnsupportedError, match="the student is a UnknownDecoderDINO"):
        distil(small_detr("dino", type="UnknownDecoderDINO"), small_detr("dino"), tmp_path)


def test_softmax_ensembles_and_training_without_labels_are_refused(tmp_path):
    dino, softmax = small_detr("dino"), small_detr("one_stage")
    softmax.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=False, class_weight=1.0)
    with pytest.raises(UnsupportedError, match=r"MatchedQueryDistillation: the teacher's .* has a softmax"):
        distil(small_detr("one_stage"), softmax, tmp_path)
    with pytest.raises(UnsupportedError, match="student_loss=False"):
        distil(dino, dino, tmp_path, student_loss=False)
    path = save_checkpoint(build(dino, 1), tmp_path / "teacher.pth")
    teachers = {name: dict(copy.deepcopy(dino), checkpoint=path) for name in "ab"}
    methods = [dict(METHOD, taught_by=["a", "b"], ensemble="average")]
    with pytest.raises(UnsupportedError, match="learns from one teacher"):
        MODELS.build(
            dict(type="DistillationDetector", student=small_detr("dino"), teachers=teachers, methods=methods)
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_queries=0), "num_queries must be a number of predictions, got 0"),
        (dict(num_queries=True), "num_queries must be a number of predictions, got True"),
        (dict(min_score=1.0), "min_score must be from 0 to below 1, got 1.0"),
        (dict(min_score=-0.1), "min_score must be from 0 to below 1"),
        (dict(loss_name="kd"), "loss_name must contain 'loss'"),
        (dict(loss_bbox=dict(type="GIoULoss")), "loss_bbox must be one of L1Loss, SmoothL1Loss"),
        (dict(loss_cls="KDLoss"), r"loss_cls must be dict\(type=..., ...\), got 'KDLoss'"),
        (
            dict(loss_cls=dict(loss_weight=2.0)),
            r"loss_cls must be dict\(type=..., ...\), got {'loss_weight': 2.0}",
        ),
        (dict(loss_iou="GIoULoss"), r"loss_iou must be dict\(type=..., ...\), got 'GIoULoss'"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message) as refused:
        MODELS.build(dict(METHOD, **changes))
    assert "\n" not in str(refused.value)
