"""Every method with one, two and five frozen teachers, a peer, a snapshot and an exit: it trains or is refused."""

import copy

from lad.errors import ConfigError, UnsupportedError

import pytest
import torch
from dense_detectors import dense
from detr_detectors import small_detr
from helpers import at, build, make_batch, save_checkpoint
from method_table import distillation_methods
from mmdet.registry import MODELS
from two_stage_detectors import two_stage, with_masks

PAA, RETINA, GFL, FASTER, MASK, DETR = (
    "PAA",
    "RetinaNet",
    "GFL",
    "Faster R-CNN",
    "Mask R-CNN",
    "Deformable-DETR",
)
DETECTORS = {
    PAA: lambda: dense("paa"),
    RETINA: lambda: dense("retinanet"),
    GFL: lambda: dense("gfl"),
    FASTER: lambda: two_stage("faster"),
    MASK: lambda: two_stage("mask"),
    DETR: lambda: small_detr("one_stage"),
}
#: The detector on which each method is tried.
DETECTOR_OF = {
    "LabelAssignmentDistillation": PAA,
    "SoftLabelDistillation": PAA,
    "DetectionDistillation": PAA,
    "DenseLogitDistillation": RETINA,
    "CrossHeadDistillation": RETINA,
    "LocalisationDistillation": GFL,
    "HintDistillation": RETINA,
    "FeatureDistillation": RETINA,
    "ActivationBoundaryDistillation": RETINA,
    "FactorTransferDistillation": RETINA,
    "OverhaulDistillation": RETINA,
    "RelationalDistillation": RETINA,
    "SelfDistillation": RETINA,
    "SimilarityPreservingDistillation": RETINA,
    "MulDE": RETINA,
    "ClassBalancedDistillation": RETINA,
    "NotTrueDistillation": RETINA,
    "RPNDistillation": FASTER,
    "RCNNDistillation": FASTER,
    "RoILogitDistillation": FASTER,
    "MaskLogitDistillation": MASK,
    "SharedQueryDistillation": DETR,
    "MatchedQueryDistillation": DETR,
}
#: Random weights score below what counts as a prediction.
SETTINGS = {"MatchedQueryDistillation": dict(min_score=0.0)}
ROLES = (
    "one",
    "two apart",
    "two as an ensemble",
    "five apart",
    "five as an ensemble",
    "peer",
    "both ways",
    "snapshot",
    "exit learns",
    "exit teaches",
)
ONE_DECIDES = "both change the own loss of the {} of 'student'"
NO_EXITS = "(FasterRCNN|MaskRCNN|DeformableDETR) has no dense head whose priors an exit could share"
APART = ("two apart", "five apart")
ENSEMBLES = ("two as an ensemble", "five as an ensemble")
#: Of methods that take several teachers apart.
AT_ONCE = ("two at once", "five at once")
SAME_RUN = ("peer", "both ways", "snapshot", "exit learns", "exit teaches")
EXITS = ("exit learns", "exit teaches")
#: What is refused, and the reason; everything else trains.
REFUSED = {
    "LabelAssignmentDistillation": {
        **dict.fromkeys(APART, ONE_DECIDES.format("bbox_head")),
        **dict.fromkeys(ENSEMBLES, "learns from one teacher"),
        "both ways": "wait for each other's predictions in the same step.*CoLearningAssignment",
        "exit teaches": "wait for each other's predictions in the same step",
    },
    "DetectionDistillation": {
        # Of several that teach apart, each has losses of its own name.
        **dict.fromkeys(ENSEMBLES, "learns from one teacher"),
        **dict.fromkeys(
            ("peer", "both ways", *EXITS),
            "reads boxes with classes and scores, and teacher '.*' .* gives feature maps",
        ),
    },
    "CrossHeadDistillation": dict.fromkeys(ENSEMBLES, "learns from one teacher"),
    "ActivationBoundaryDistillation": {
        **dict.fromkeys(ENSEMBLES, "learns from one teacher"),
        **dict.fromkeys(SAME_RUN, "it pretrains from a teacher that must be trained before"),
    },
    "FactorTransferDistillation": {
        **dict.fromkeys(ENSEMBLES, "learns from one teacher"),
        **dict.fromkeys(SAME_RUN, "it pretrains from a teacher that must be trained before"),
    },
    "OverhaulDistillation": {
        **dict.fromkeys(ENSEMBLES, "learns from one teacher"),
        **dict.fromkeys(SAME_RUN, "its margins follow from the statistics of trained batch norms"),
    },
    "RPNDistillation": {
        **dict.fromkeys(APART, ONE_DECIDES.format("rpn_head")),
        **dict.fromkeys(EXITS, NO_EXITS),
    },
    "RCNNDistillation": {
        **dict.fromkeys(APART, ONE_DECIDES.format("roi_head")),
        **dict.fromkeys(EXITS, NO_EXITS),
    },
    "RoILogitDistillation": dict.fromkeys(EXITS, NO_EXITS),
    "MaskLogitDistillation": dict.fromkeys(EXITS, NO_EXITS),
    **{
        name: {**dict.fromkeys(ENSEMBLES, "learns from one teacher"), **dict.fromkeys(EXITS, NO_EXITS)}
        for name in ("SharedQueryDistillation", "MatchedQueryDistillation")
    },
    **dict.fromkeys(
        ("MulDE", "ClassBalancedDistillation"),
        dict.fromkeys(ENSEMBLES, "learns from each of its teachers by itself: leave out ensemble"),
    ),
    "SelfDistillation": {
        **dict.fromkeys(ROLES, "SelfDistillation trains exits, and '(student|a)' has none"),
        "exit learns": None,
        "exit teaches": "'student.early' cannot learn from its own outputs of the same step",
    },
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return {
        (name, seed): save_checkpoint(build(make(), seed), folder / f"{name}_{seed}.pth")
        for name, make in DETECTORS.items()
        for seed in range(1, 6)
    }


def batch_of(method):
    inputs, samples = make_batch((2, 3), (96, 128))
    return inputs, with_masks(samples) if DETECTOR_OF[method] == MASK else samples


def build_with(role, method, checkpoints):
    """A detector in which a method plays a role."""
    name = DETECTOR_OF[method]
    config, settings = dict(type=method, **SETTINGS.get(method, {})), {}

    def frozen(count):
        return {
            "abcde"[i]: dict(DETECTORS[name](), checkpoint=checkpoints[name, i + 1]) for i in range(count)
        }

    if role == "one":
        settings = dict(student=DETECTORS[name](), teacher=frozen(1)["a"], methods=[config])
    elif role in (*APART, *ENSEMBLES, *AT_ONCE):
        teachers = frozen(2 if role.startswith("two") else 5)
        methods = [dict(config, taught_by=each) for each in teachers]
        if role in ENSEMBLES:
            methods = [dict(config, taught_by=list(teachers), ensemble="average")]
        if role in AT_ONCE:
            methods = [dict(config, taught_by=list(teachers))]
        settings = dict(student=DETECTORS[name](), teachers=teachers, methods=methods)
    elif role in ("peer", "both ways"):
        methods = [dict(config, learner="a", taught_by="b"), dict(config, learner="b", taught_by="a")]
        networks = dict(a=DETECTORS[name](), b=DETECTORS[name]())
        settings = dict(networks=networks, methods=methods[: 1 if role == "peer" else 2])
    elif role == "snapshot":
        before = dict(snapshot_of="student", at="epoch")
        settings = dict(student=DETECTORS[name](), teachers=dict(before=before), methods=[config])
    else:
        learner, teacher = (
            ("student.early", "student") if role == "exit learns" else ("student", "student.early")
        )
        exits = dict(student=dict(early=dict(levels=[1])))
        methods = [dict(config, learner=learner, taught_by=teacher)]
        settings = dict(student=DETECTORS[name](), exits=exits, methods=methods)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(dict(type="DistillationDetector", **copy.deepcopy(settings)))
        model.init_weights()
    return model


def test_every_method_is_in_the_table():
    # Joint methods have no learner and no teacher.
    assert {name for name in distillation_methods() if not MODELS.get(name).is_joint} == set(DETECTOR_OF)


#: Every method in every role; where several teachers are taken apart, also in theirs.
PLAYED = [(method, role) for method in DETECTOR_OF for role in ROLES]
PLAYED += [(method, role) for method in ("MulDE", "ClassBalancedDistillation") for role in AT_ONCE]


@pytest.mark.parametrize(("method", "role"), PLAYED)
def test_method_trains_in_a_role_or_is_refused_for_the_right_reason(method, role, checkpoints):
    if reason := REFUSED.get(method, {}).get(role):
        with pytest.raises((ConfigError, UnsupportedError), match=reason) as refused:
            build_with(role, method, checkpoints)
        assert "\n" not in str(refused.value)
        return
    model = build_with(role, method, checkpoints).train()
    inputs, samples = batch_of(method)
    for place in (0, 10**6):  # the pretraining, where there is one, and the task
        at(model, place)
        total, _ = model.parse_losses(model.loss(inputs, copy.deepcopy(samples)))
        total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


#: Methods with losses of their own, in the roles of networks of the same run that they can have.
WITHIN_A_RUN = [
    (method, role)
    for method in DETECTOR_OF
    for role in ("peer", "exit learns", "exit teaches")
    if method != "LabelAssignmentDistillation" and not REFUSED.get(method, {}).get(role)
]


@pytest.mark.parametrize(("method", "role"), WITHIN_A_RUN)
def test_gradients_of_a_methods_losses_reach_the_learner_only(method, role, checkpoints):
    model = build_with(role, method, checkpoints).train()
    (one,) = model.bound.values()
    inputs, samples = batch_of(method)
    terms = {}
    losses = one.method.losses
    one.method.losses = lambda step: terms.update(losses(step)) or dict(terms)
    model.loss(inputs, copy.deepcopy(samples))
    sum(sum(value) if isinstance(value, list) else value for value in terms.values()).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    teacher = {
        "peer": "distillation.networks.b.",
        "exit learns": ("neck.", "bbox_head."),
        "exit teaches": "distillation.exits.",
    }[role]
    learner = {"peer": "", "exit learns": "distillation.exits.student.early.", "exit teaches": ""}[role]
    assert not {name for name in reached if name.startswith(teacher)}
    assert {name for name in reached if name.startswith(learner)}
