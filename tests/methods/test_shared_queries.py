"""KD-DETR: queries that two DETRs share, in training only, and whose answers are compared."""

from __future__ import annotations

import copy
import math
from functools import partial

from lad.base.replace import replaced
from lad.errors import ConfigError, UnsupportedError
from lad.methods.assignment.inherited_queries import InheritedQueries
from lad.methods.assignment.inherited_queries import decode as decode_own
from lad.methods.transformers import shared_queries
from lad.methods.transformers.comparison import build_answer_losses, compare_answers
from lad.methods.transformers.decoding import Answers, decode, pair_layers, recording_decoder_inputs
from lad.methods.transformers.families import Queries, find_family, random_like

import pytest
import torch
from detr_detectors import (
    DETRS,
    distil_detr,
    features_of,
    sample_of,
    seeded_loss,
    small_dab,
    small_detr,
    trained_like,
)
from helpers import build, distillation_of, fake_cuda, make_batch, save_checkpoint, small_paa
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS

FAMILIES = {family: partial(small_detr, family) for family in DETRS} | dict(dab=small_dab)
BATCH = dict(objects=(3, 0, 7), size=(96, 128), shapes=[(64, 128), (96, 90), (96, 128)])
TERMS = ["loss_shared_cls", "loss_shared_bbox", "loss_shared_iou"]
METHOD = dict(type="SharedQueryDistillation", num_random=15)


def distil(student, teacher, folder, *more, method=METHOD, **settings):
    return distil_detr(student, teacher, folder, method, *more, **settings)


# -- The loss -------------------------------------------------------------------------------------------------------


def default_losses(**losses):
    configs = dict(
        cls=dict(type="KDLoss"),
        bbox=dict(type="L1Loss", loss_weight=5.0),
        iou=dict(type="GIoULoss", loss_weight=2.0),
    )
    return build_answer_losses("test", **(configs | losses))


def hand_answers():
    """One layer, image of 10 x 10 pixels and class; two queries, with probabilities of the teacher 0.75 and 0.25."""
    logit = math.log(3)
    taught = Answers(
        torch.tensor([logit, -logit]).reshape(1, 1, 2, 1),
        torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]]).reshape(1, 1, 2, 4),
    )
    own = Answers(
        torch.zeros(1, 1, 2, 1),
        torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.2]]).reshape(1, 1, 2, 4),
    )
    return own, taught


def test_hand_arithmetic():
    """Weights 3/4 and 1/4, whose sum is 1. Both queries have KL = 3/4 log(3/2) + 1/4 log(1/2), as p_s = 1/2.

    The first box has half the teacher's width: L1 = 0.2, and its IoU and GIoU are 1/2; the second is the teacher's.
    """
    losses = compare_answers(default_losses(), *hand_answers(), [sample_of((10, 10))])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    expected = [divergence, 5 * 0.75 * 0.2, 2 * 0.75 * 0.5]
    torch.testing.assert_close(torch.stack(losses), torch.tensor(expected))


def test_layers_are_added_and_the_last_one_of_the_teacher_says_what_is_foreground():
    """A first layer whose teacher is certain of the second query gets the last layer's weights all the same."""
    own, taught = hand_answers()
    own = Answers(*(torch.cat([value, value]) for value in own))
    first = torch.tensor([-9.0, 9.0]).reshape(1, 1, 2, 1)
    taught = Answers(torch.cat([first, taught.cls_scores]), torch.cat([taught.bbox_preds] * 2))
    _, bbox, iou = compare_answers(default_losses(), own, taught, [sample_of((10, 10))])
    torch.testing.assert_close(bbox, torch.tensor(2 * 5 * 0.75 * 0.2))
    torch.testing.assert_close(iou, torch.tensor(2 * 2 * 0.75 * 0.5))


def test_weights_below_one_object_in_all_are_not_blown_up():
    """Where the teacher sees nothing, the sum of the weights counts as one object."""
    own, taught = hand_answers()
    taught = taught._replace(cls_scores=torch.full((1, 1, 2, 1), -math.log(99)))  # 1 % each
    _, bbox, _ = compare_answers(default_losses(), own, taught, [sample_of((10, 10))])
    torch.testing.assert_close(bbox, torch.tensor(5 * 0.01 * 0.2))


def test_boxes_are_compared_in_the_pixels_of_each_image():
    generator = torch.Generator().manual_seed(0)
    own, taught = (
        Answers(
            torch.randn(2, 2, 5, 2, generator=generator),
            torch.rand(2, 2, 5, 4, generator=generator) * 0.5 + 0.2,
        )
        for _ in range(2)
    )
    samples = [sample_of((40, 100)), sample_of((30, 30))]
    found = compare_answers(default_losses(cls=dict(type="FocalKLLoss")), own, taught, samples)
    logits = taught.cls_scores
    weight = logits[-1].sigmoid().amax(-1)
    target, pred = logits.sigmoid(), own.cls_scores.sigmoid()
    kl = target * (target / pred).log() + (1 - target) * ((1 - target) / (1 - pred)).log()
    focal = kl * ((target - pred) ** 2 + 1e-6) ** 0.25
    scale = torch.tensor([[100.0, 40, 100, 40], [30, 30, 30, 30]])[:, None]

    def corners(boxes):
        boxes = boxes * scale
        return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)

    a, b = corners(own.bbox_preds), corners(taught.bbox_preds)
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    union = sum(areas) - overlap.prod(-1)
    giou = overlap.prod(-1) / union - (hull - union) / hull
    wanted = [
        (weight * focal.sum(-1)).sum() / weight.sum(),
        5 * (weight * (own.bbox_preds - taught.bbox_preds).abs().sum(-1)).sum() / weight.sum(),
        2 * (weight * (1 - giou)).sum() / weight.sum(),
    ]
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted))


def test_loss_waits_for_no_device():
    with fake_cuda():
        own, taught = (
            Answers(torch.randn(2, 3, 5, 4, device="cuda"), torch.rand(2, 3, 5, 4, device="cuda"))
            for _ in range(2)
        )
        losses = compare_answers(default_losses(), own, taught, [sample_of((9, 9))] * 3)
        assert {loss.device.type for loss in losses} == {"cuda"}


def test_layers_are_paired_evenly_with_the_last_in_any_case():
    assert pair_layers(6, 6) == list(range(6))
    assert pair_layers(2, 6) == [2, 5]
    assert pair_layers(6, 2) == [0, 0, 0, 1, 1, 1]
    assert pair_layers(4, 6) == [1, 2, 4, 5]
    for student in range(1, 9):
        for teacher in range(1, 9):
            pairs = pair_layers(student, teacher)
            assert pairs == sorted(pairs)
            assert pairs[-1] == teacher - 1
            assert min(pairs) >= 0


def test_random_contents_have_the_scale_of_learnt_ones():
    """Learnt values 1 and 3 have mean 2 and deviation 1."""
    learnt = Queries(torch.zeros(1, 2, 2), dict(query=torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])))
    noise = Queries(torch.rand(1, 1, 2), dict(query=torch.tensor([[[0.5, 9.0]]])))
    found = random_like(learnt, noise)
    torch.testing.assert_close(found.contents["query"], torch.tensor([[[2.5, 0.0]]]))
    assert found.positions is noise.positions


# -- Decoders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", ["even", "last"])
def test_teacher_with_the_students_weights_gives_no_loss(family, layers, tmp_path):
    config = FAMILIES[family](layers=2)
    model = distil(config, config, tmp_path, seeds=(0, 0), method=dict(METHOD, layers=layers))
    losses = seeded_loss(model, make_batch(**BATCH))
    terms = torch.stack([losses[name] for name in TERMS])
    if layers == "even":
        assert terms.max() < 1e-4, "up to rounding"
    else:
        assert terms.min() > 1e-4, "a layer learns from the next one"


@pytest.mark.parametrize("family", DETRS)
def test_students_answers_are_its_predictions_if_its_queries_were_the_teachers(family, tmp_path, monkeypatch):
    """The oracle is the student with inherited queries, decoded by another code."""
    student = FAMILIES[family]()
    model = distil(student, FAMILIES[family](base=16, layers=3), tmp_path, method=dict(METHOD, num_random=0))
    answers = []
    compare = shared_queries.compare_answers
    monkeypatch.setattr(
        shared_queries, "compare_answers", lambda *args: answers.extend(args[1:3]) or compare(*args)
    )
    inputs, samples = make_batch(**BATCH)
    seeded_loss(model, (inputs, samples))
    with torch.no_grad():
        teacher = model.teacher.model
        features = features_of(teacher, inputs)
        cls_scores, bbox_preds, references = decode_own(teacher, features, "neck", samples)
        torch.testing.assert_close(answers[1].cls_scores, cls_scores[[1, 2]], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(answers[1].bbox_preds, bbox_preds[[1, 2]], rtol=1e-4, atol=1e-4)
        twin = copy.deepcopy(model.student)
        queries = InheritedQueries(twin, model.teacher)
        features = features_of(twin, inputs)
        with queries.starting_from(references):
            cls_scores, bbox_preds, _ = decode_own(twin, features, "neck", samples)
    if family == "two_stage":  # each network makes contents of the boxes by its own weights
        with pytest.raises(AssertionError):
            torch.testing.assert_close(answers[0].cls_scores.detach(), cls_scores, rtol=1e-4, atol=1e-4)
        return
    torch.testing.assert_close(answers[0].cls_scores.detach(), cls_scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(answers[0].bbox_preds.detach(), bbox_preds, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_own_loss_and_predictions_are_those_of_the_student_alone(family, tmp_path):
    """Denoising included: it draws the same numbers."""
    student = FAMILIES[family]()
    model = distil(student, FAMILIES[family](base=16), tmp_path)
    batch = make_batch(**BATCH)
    plain, taught = seeded_loss(model.student, batch), seeded_loss(model, batch)
    assert taught.keys() - plain.keys() == set(TERMS)
    assert any("dn_" in name for name in plain) is (family == "dino")
    assert all(torch.equal(taught[name], value) for name, value in plain.items())
    calls = []
    model.student.decoder.register_forward_hook(lambda *args: calls.append(args[0]))
    model.eval()
    inputs, samples = batch
    with torch.no_grad():
        found = model.predict(inputs, copy.deepcopy(samples))
        wanted = trained_like(student, 0).eval().predict(inputs, copy.deepcopy(samples))
    assert len(calls) == 1
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.pred_instances.bboxes, other.pred_instances.bboxes)
        torch.testing.assert_close(one.pred_instances.scores, other.pred_instances.scores)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_student_before_and_behind_its_decoder_and_no_teacher(family, tmp_path):
    model = distil(FAMILIES[family](), FAMILIES[family](base=16), tmp_path)
    losses = seeded_loss(model, make_batch(**BATCH))
    sum(losses[name] for name in TERMS).backward()
    reached = {
        name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }
    for part in ("backbone.", "neck.", "encoder.layers.0.", "decoder.layers.1.", "bbox_head."):
        assert any(name.startswith(part) for name in reached), part
    assert not any(name.startswith(("query_embedding", "dn_query_generator")) for name in reached)
    teacher = model.teacher.model
    assert all(value.grad is None and not value.requires_grad for value in teacher.parameters())


@pytest.mark.parametrize("family", ["one_stage", "dino"])
def test_every_trained_parameter_gets_a_gradient_and_zero_weight_is_plain_training(family, tmp_path):
    """As DDP asks; one-stage with connectors between widths."""
    teacher = FAMILIES[family](base=16, **(dict(dims=64) if family == "one_stage" else {}))
    gradients = []
    for method in (dict(METHOD, factor=0.0), None):
        model = distil(FAMILIES[family](), teacher, tmp_path, method=method or METHOD)
        network = model if method else model.student
        total, _ = network.parse_losses(seeded_loss(network, make_batch(**BATCH)))
        total.backward()
        gradients.append((total.detach(), {name: value.grad for name, value in network.named_parameters()}))
    (total, found), (plain_total, wanted) = gradients
    torch.testing.assert_close(total, plain_total, rtol=1e-6, atol=1e-6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6)
    own = {name for name in found if name.startswith("distillation.")}
    assert found.keys() - own == wanted.keys()
    assert bool(own) is (family == "one_stage")
    assert all(found[name] is not None and not found[name].any() for name in own)


def test_denoising_queries_are_not_among_the_shared_ones(tmp_path):
    """The decoder is given its own and the denoising queries with their mask, then each set without a mask."""
    model = distil(FAMILIES["dino"](), FAMILIES["dino"](base=16, queries=25), tmp_path)
    calls = []
    model.student.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((kwargs["query"].shape[1], kwargs["self_attn_mask"])),
        with_kwargs=True,
    )
    seeded_loss(model, make_batch(**BATCH))
    (first, mask), *others = calls
    assert first > 20
    assert mask.shape == (first, first)
    assert others == [(25, None), (15, None)]


@pytest.mark.parametrize("family", ["one_stage", "two_stage", "dino"])
def test_padding_of_smaller_images_is_not_attended_to(family, tmp_path):
    model = trained_like(FAMILIES[family](), 0).eval()
    inputs, samples = make_batch(**BATCH)
    with torch.no_grad():
        with recording_decoder_inputs(model) as recorded:
            model.predict(inputs, copy.deepcopy(samples))
        kind = find_family(model)
        noise = Queries(
            torch.rand(3, 9, kind.num_coordinates),
            {name: torch.randn(3, 9, model.embed_dims) for name in kind.contents},
        )
        queries = random_like(kind.queries(recorded), noise)
        wanted = decode(model, kind, recorded, queries)
        mask = recorded["memory_mask"]
        changed = torch.where(mask[..., None], 100.0, recorded["memory"])
        found = decode(model, kind, recorded | dict(memory=changed), queries)
        unmasked = decode(model, kind, recorded | dict(memory=changed, memory_mask=None), queries)
    assert mask.any(dim=1).tolist() == [True, True, False]
    assert torch.equal(found.cls_scores, wanted.cls_scores)
    assert torch.equal(found.bbox_preds, wanted.bbox_preds)
    assert not torch.equal(unmasked.cls_scores, wanted.cls_scores), "the control"
    assert recorded["valid_ratios"][0, 0, 1] < 1


def test_each_network_decodes_with_its_own_masks_and_ratios(tmp_path):
    model = distil(FAMILIES["dino"](), FAMILIES["dino"](base=16), tmp_path)
    calls = dict(student=[], teacher=[])
    for name, network in (("student", model.student), ("teacher", model.teacher.model)):
        network.decoder.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: calls[name].append(kwargs), with_kwargs=True
        )
    seeded_loss(model, make_batch(**BATCH))
    assert [len(calls[name]) for name in ("student", "teacher")] == [3, 2]
    own, *shared = calls["student"]
    for call in shared:
        for name in ("value", "key_padding_mask", "valid_ratios", "spatial_shapes", "level_start_index"):
            assert call[name] is own[name]
    for call, taught in zip(shared, calls["teacher"], strict=True):
        assert torch.equal(call["query"], taught["query"])
        assert torch.equal(call["reference_points"], taught["reference_points"])
        assert not torch.equal(call["value"], taught["value"])


def test_random_queries_follow_the_steps_random_state_and_differ_between_images(tmp_path):
    model = distil(FAMILIES["one_stage"](), FAMILIES["one_stage"](base=16), tmp_path)
    drawn = []
    model.student.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: drawn.append(kwargs["reference_points"].detach()), with_kwargs=True
    )
    batch = make_batch(**BATCH)
    first, again, other = (seeded_loss(model, batch, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in TERMS)
    assert not any(torch.equal(first[name], other[name]) for name in TERMS)
    assert torch.equal(drawn[2], drawn[5])
    assert not torch.equal(drawn[2], drawn[8])
    assert not torch.equal(drawn[2][0], drawn[2][1])
    assert 0 <= drawn[2].min() < 0.1 < 0.9 < drawn[2].max() < 1, "all over the image"


def test_teacher_runs_once_a_step_without_gradient_and_draws_nothing(tmp_path):
    model = distil(FAMILIES["dino"](), FAMILIES["dino"](base=16), tmp_path)
    calls = []
    for name in ("backbone", "encoder", "decoder"):
        getattr(model.teacher.model, name).register_forward_hook(
            lambda *args, name=name: calls.append((name, torch.is_grad_enabled()))
        )
    model.teacher.model.dn_query_generator = None
    seeded_loss(model, make_batch(**BATCH))
    assert calls == [("backbone", False), ("encoder", False), ("decoder", False), ("decoder", False)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("captured", [True, False], ids=["captured", "not_captured"])
def test_teacher_encodes_and_decodes_once_for_all_methods_whose_losses_are_those_of_each_alone(
    captured, family, tmp_path
):
    networks = FAMILIES[family](), FAMILIES[family](base=16)
    memory = dict(
        type="FeatureDistillation", student="encoder", teacher="encoder", loss=dict(type="HintLoss")
    )
    methods = [METHOD, dict(type="MatchedQueryDistillation")]
    alone = {}
    for method in methods:
        losses = seeded_loss(distil(*networks, tmp_path, method=method), make_batch(**BATCH))
        alone |= {name: loss for name, loss in losses.items() if "shared" in name or "matched" in name}
    model = distil(*networks, tmp_path, *methods[1:], *[memory][:captured])
    calls = count_teachers_passes(model)
    together = seeded_loss(model, make_batch(**BATCH))
    # The teacher's own queries and the random ones.
    assert calls == dict(encoder=1, decoder=2)
    assert len(alone) == 6
    for name, loss in alone.items():
        torch.testing.assert_close(together[name], loss)


@pytest.mark.parametrize("family", DETRS)
def test_teachers_own_queries_are_decoded_once_for_answers_and_for_matches(family, tmp_path):
    """Their answers are the same whoever asks first."""
    networks = FAMILIES[family](), FAMILIES[family]()
    assignment = dict(type="LabelAssignmentDistillation", inherit_queries=True)
    methods = [assignment, METHOD, dict(type="MatchedQueryDistillation")]
    losses = []
    for ordered in (methods, methods[::-1]):
        model = distil(*networks, tmp_path, *ordered[1:], method=ordered[0])
        calls = count_teachers_passes(model)
        losses.append(seeded_loss(model, make_batch(**BATCH)))
        assert calls == dict(encoder=1, decoder=2)
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss)


def count_teachers_passes(model):
    """How often the teacher's encoder and decoder run from now on."""
    calls = dict.fromkeys(("encoder", "decoder"), 0)

    def count(name):
        calls[name] += 1

    for name in calls:
        getattr(model.teacher.model, name).layers[0].register_forward_hook(
            lambda *args, name=name: count(name)
        )
    return calls


@pytest.mark.parametrize("family", ["one_stage", "dino"])
def test_detectors_are_as_before_after_a_step_and_after_an_exception(family, tmp_path):
    model = distil(FAMILIES[family](), FAMILIES[family](), tmp_path)
    batch = make_batch(**BATCH)
    teacher = model.teacher.model
    places = [model.student, model.student.bbox_head, teacher, teacher.bbox_head, teacher.encoder]

    def state():
        return [dict(vars(place)) for place in places], dict(teacher.encoder._forward_hooks)

    before = state()
    seeded_loss(model, batch)
    assert state() == before

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    for owner, name in (
        (model.student.bbox_head, "loss_by_feat_single"),
        (model.teacher.model, "pre_decoder"),
    ):
        with pytest.raises(ZeroDivisionError), replaced(owner, name, broken):
            seeded_loss(model, batch)
        assert state() == before


def test_other_widths_layers_queries_and_levels(tmp_path):
    """A teacher of twice the width, with three decoder layers for two and 30 queries for 20."""
    student = FAMILIES["one_stage"]()
    teacher = FAMILIES["one_stage"](base=16, dims=64, layers=3, queries=30)
    model = distil(student, teacher, tmp_path)
    losses = seeded_loss(model, make_batch(**BATCH))
    sum(losses[name] for name in TERMS).backward()
    assert all(losses[name].isfinite() and losses[name] > 0 for name in TERMS)
    state = model.state_dict()
    plain = MODELS.build(copy.deepcopy(student))
    adapters = {name for name in state if name.startswith("distillation.")}
    assert adapters == {
        f"distillation.SharedQueryDistillation.connectors.{name}.linear.{kind}"
        for name in ("query", "query_pos")
        for kind in ("weight", "bias")
    }
    assert [name for name in state if name not in adapters] == list(plain.state_dict())
    assert state[next(iter(adapters))].shape[0] == 32
    assert all(value.grad.any() for name, value in model.named_parameters() if name in adapters)
    assert model.methods[0].pairs.tolist() == [1, 2]


@pytest.mark.parametrize("family", ["one_stage", "dino"])
def test_checkpoint_is_plain_mmdetections(family, tmp_path):
    model = distil(FAMILIES[family](), FAMILIES[family](base=16), tmp_path)
    plain = MODELS.build(FAMILIES[family]())
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(
    ("family", "speed"),
    [("one_stage", {}), ("two_stage", {}), ("dino", dict(bfloat16=True, inference_mode=True)), ("dab", {})],
)
def test_half_precision(family, speed, tmp_path):
    model = distil(FAMILIES[family](), FAMILIES[family](base=16), tmp_path, speed=speed)
    exact = seeded_loss(model, make_batch(**BATCH))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = seeded_loss(model, make_batch(**BATCH))
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(losses[name].dtype == torch.float32 for name in TERMS)
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
    for name in TERMS:
        torch.testing.assert_close(losses[name], exact[name], rtol=0.5, atol=0.1)


def test_batch_without_objects(tmp_path):
    model = distil(FAMILIES["dino"](), FAMILIES["dino"](base=16), tmp_path)
    losses = seeded_loss(model, make_batch((0, 0)))
    assert all(losses[name].isfinite() and losses[name] > 0 for name in TERMS)


def test_peer_teaches_and_both_ways():
    """What a network computes in its own loss is read by the other; each learner's terms train it alone."""
    networks = dict(a=FAMILIES["dino"](), b=FAMILIES["dino"](base=16))
    methods = [
        dict(METHOD, learner="a", taught_by="b", loss_name="loss_a"),
        dict(METHOD, learner="b", taught_by="a", loss_name="loss_b"),
    ]
    model = MODELS.build(dict(type="DistillationDetector", networks=networks, methods=methods))
    model.init_weights()
    losses = seeded_loss(model.train(), make_batch(**BATCH))
    names = [name for name in losses if "loss_a_" in name]
    assert len(names) == 3
    sum(losses[name] for name in names).backward()
    reached = {
        name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }
    assert reached
    assert not any(name.startswith("distillation.") for name in reached)


def test_a_peers_answers_are_those_without_dropout_also_where_its_memory_is_read():
    networks = dict(a=small_detr("one_stage"), b=small_detr("one_stage", base=16))
    matched = dict(type="MatchedQueryDistillation", learner="a", taught_by="b")
    memory = dict(
        type="FeatureDistillation", student="encoder", teacher="encoder", loss=dict(type="HintLoss")
    )
    found = []
    for more in ([], [dict(memory, learner="a", taught_by="b")]):
        config = dict(type="DistillationDetector", networks=networks, methods=[matched, *more])
        torch.manual_seed(0)
        model = MODELS.build(copy.deepcopy(config))
        losses = seeded_loss(model.train(), make_batch(**BATCH))
        found += [loss for name, loss in losses.items() if name.endswith("loss_matched_cls")]
    assert torch.equal(*found)


def test_classes_are_found_by_name(tmp_path):
    """A teacher whose classes are the student's in another order, and one more."""
    student, teacher = FAMILIES["one_stage"](), FAMILIES["one_stage"](num_classes=4)
    known = dict(dataset_meta=dict(classes=("c", "d", "a", "b")))
    model = distil(student, teacher, tmp_path, method=dict(METHOD, classes=["a", "b", "c"]), meta=known)
    scores = torch.randn(2, 3, 5, 4)
    answers = model.methods[0].of_students_classes(Answers(scores, torch.rand(2, 3, 5, 4)))
    assert torch.equal(answers.cls_scores, scores[..., [2, 3, 0]])
    seeded_loss(model, make_batch(**BATCH))
    with pytest.raises(UnsupportedError, match="student has 3 classes and the teacher 4"):
        distil(student, teacher, tmp_path)


# -- Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (small_detr("dino"), small_detr("two_stage"), "a DINO student .* a two-stage DeformableDETR teacher"),
        (small_detr("one_stage"), small_detr("two_stage"), "a DeformableDETR student .* two-stage"),
        (small_detr("dino"), small_dab(), "a DINO student .* a DABDETR teacher"),
        (small_paa(), small_detr("dino"), "a PAA student .* DINO teacher: it works for two of the same kind"),
        (small_detr("dino"), small_paa(), "a DINO student .* PAA teacher.*DetectionDistillation"),
    ],
    ids=["dino-two_stage", "one_stage-two_stage", "dino-dab", "paa-dino", "dino-paa"],
)
def test_detectors_of_other_kinds_are_refused(student, teacher, message, tmp_path):
    with pytest.raises(UnsupportedError, match=message) as refused:
        distillation_of(tmp_path, copy.deepcopy(student), copy.deepcopy(teacher), METHOD)
    assert "\n" not in str(refused.value)


def test_detector_that_decodes_in_another_way_is_refused(tmp_path):
    @MODELS.register_module(force=True)
    class OtherDecoderDINO(DINO):
        def forward_decoder(self, *args, **kwargs):
            return super().forward_decoder(*args, **kwargs)

    with pytest.raises(UnsupportedError, match="a OtherDecoderDINO student"):
        distil(small_detr("dino", type="OtherDecoderDINO"), small_detr("dino"), tmp_path)


def test_softmax_classifier_is_refused(tmp_path):
    softmax = small_detr("one_stage")
    softmax.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=False, class_weight=1.0)
    with pytest.raises(UnsupportedError, match="the teacher's DeformableDETRHead has a softmax"):
        distil(small_detr("one_stage"), softmax, tmp_path)


def test_ensemble_and_training_without_labels_are_refused(tmp_path):
    dino = small_detr("dino")
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
    ("settings", "error", "message"),
    [
        (dict(num_random=-1), ConfigError, "num_random must be a number of queries, got -1"),
        (dict(num_random=True), ConfigError, "num_random must be a number of queries, got True"),
        (dict(specific=False, num_random=0), ConfigError, "leave no query to share"),
        (dict(layers="first"), ConfigError, "layers must be 'even' or 'last', got 'first'"),
        (dict(loss_name="kd"), ConfigError, "loss_name must contain 'loss'"),
        (dict(loss_cls=dict(type="DKDLoss")), UnsupportedError, "DKDLoss needs labels"),
        (dict(loss_cls=dict(type="L1Loss")), UnsupportedError, "L1Loss does not compare"),
        (dict(loss_cls=dict(type="KDLos")), ConfigError, "there is no loss 'KDLos'"),
        (dict(loss_bbox=dict(type="GIoULoss")), ConfigError, "loss_bbox must be one of L1Loss, SmoothL1Loss"),
        (dict(loss_iou=dict(type="L1Loss")), ConfigError, "loss_iou must be one of GIoULoss"),
        (dict(loss_iou=dict(loss_weight=3.0)), ConfigError, "loss_iou must be one of GIoULoss"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message) as refused:
        MODELS.build(dict(METHOD, **settings))
    assert "\n" not in str(refused.value)
