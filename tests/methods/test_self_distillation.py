"""Self-distillation: formulas by hand, what its gradients reach, schedules, defaults, and mistakes in one line."""

import copy

from lad.base.progress import Progress
from lad.engine.randomness import seed_step
from lad.errors import ConfigError, UnsupportedError
from lad.exchange.labels import reading_labels
from lad.heads.dense import class_logits
from lad.methods.response import dense_logits

import pytest
import torch
from dense_detectors import dense, flat
from helpers import build, make_batch, save_checkpoint
from mmdet.registry import MODELS
from seam_detectors import set_epoch
from two_stage_detectors import two_stage

SELF = dict(type="SelfDistillation")
EARLY, LATE = dict(levels=[1]), dict(levels=[1, 2])
#: Detectors whose backbones begin with a map of stride 8.
WITHOUT_C2 = ("rtmdet", "yolox")
FAMILIES = ("retinanet", "fcos", "atss", "gfl", "vfnet", "paa", "tood", "ddod", "rtmdet", "yolox")


def other_norm():
    """A RetinaNet with another backbone, group norm, and images in RGB from 0 to 1."""
    config = dense("retinanet")
    config.backbone.update(base_channels=16, norm_cfg=dict(type="GN", num_groups=4))
    config.neck.in_channels = [16, 32, 64, 128]
    config.data_preprocessor.update(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=False)
    return config


def softmax():
    config = dense("retinanet")
    config.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)
    return config


def distil(*methods, seed=0, initial=False, **settings):
    """A detector of initial weights, or with those of its heads large enough for predictions that differ."""
    settings = dict(dict(student=dense("retinanet"), exits=dict(student=dict(early=EARLY))), **settings)
    if "networks" in settings:
        del settings["student"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(dict(type="DistillationDetector", methods=methods, **settings)))
        model.init_weights()
        for network in model.learners.values():
            for parameter in network.bbox_head.parameters():
                if parameter.dim() > 1 and not initial:
                    torch.nn.init.normal_(parameter, std=0.1)
    return model


def total(value):
    return sum(value) if isinstance(value, list) else value


def loss_of(model, batch, progress=None):
    inputs, samples = batch
    losses = model.loss_at(progress or Progress(), inputs, copy.deepcopy(samples))
    return {name: total(value) for name, value in losses.items()}


BATCH = make_batch((2, 3), (96, 128))


# -- Values -----------------------------------------------------------------------------------------------------------


def binary_kl(student, teacher, t):
    own, taught = (student / t).sigmoid(), (teacher / t).sigmoid()
    kl = taught * (taught / own).log() + (1 - taught) * ((1 - taught) / (1 - own)).log()
    return kl.sum(1)


def softmax_kl(student, teacher, t):
    own, taught = (student / t).softmax(1), (teacher / t).softmax(1)
    return (taught * (taught / own).log()).sum(1)


@pytest.mark.parametrize(
    "config", [dense("retinanet"), other_norm(), softmax()], ids=["sigmoid", "GN", "softmax"]
)
def test_terms_are_those_of_the_formula(config):
    """(1 - alpha) own + alpha tau^2 KL / positives + lambda mean ||F - F_deep||, from two passes made here."""
    alpha, tau, weight = 0.4, 2.0, 0.25
    settings = dict(alpha=alpha, temperature=tau, feature_weight=weight, loss=dict(type="KDLoss"))
    model = distil(dict(SELF, **settings), student=config).eval()
    network, exit_ = model.student, model.learners["student.early"]
    for each in (network, exit_):
        each.training = each.bbox_head.training = True
    losses = loss_of(model, BATCH)
    inputs, samples = BATCH
    with torch.no_grad():
        maps, deep_maps = exit_.extract_feat(inputs), network.extract_feat(inputs)
        outputs, deep = exit_.bbox_head(maps), network.bbox_head(deep_maps)
        own = exit_.loss(inputs, copy.deepcopy(samples))
        anchors, valid = exit_.bbox_head.get_anchors(
            [level.shape[-2:] for level in outputs[0]], [s.metainfo for s in samples], "cpu"
        )
        labels, counted, *_ = exit_.bbox_head.get_targets(
            anchors, valid, [s.gt_instances for s in samples], [s.metainfo for s in samples]
        )
    channels = exit_.bbox_head.cls_out_channels
    student, teacher = (flat(each[0], channels).flatten(0, 1).double() for each in (outputs, deep))
    counts = torch.cat(counted, dim=1).flatten() > 0
    assert not counts.all()
    positives = ((torch.cat(labels, dim=1).flatten() < 3) & counts).sum()
    kl = (binary_kl if exit_.bbox_head.use_sigmoid_cls else softmax_kl)(student, teacher, tau)
    expected = alpha * tau**2 * kl[counts].sum() / positives
    assert losses["early.student.loss_self_logits"].item() == pytest.approx(expected.item(), rel=1e-4)
    distances = [(a - b).double().square().sum(1).sqrt().mean() for a, b in zip(maps, deep_maps, strict=True)]
    assert losses["early.student.loss_self_features"].item() == pytest.approx(
        weight * sum(distances).item() / 5, rel=1e-5
    )
    for key in ("loss_cls", "loss_bbox"):
        torch.testing.assert_close(losses[f"early.{key}"], (1 - alpha) * total(own[key]))
    alone = network.loss(inputs, copy.deepcopy(samples))
    torch.testing.assert_close(losses["loss_cls"], total(alone["loss_cls"]), rtol=0, atol=0)


@pytest.mark.parametrize(("config", "loss"), [(dense("retinanet"), "QualityKDLoss"), (softmax(), "KDLoss")])
def test_logits_are_compared_by_default_as_the_classifier_is_trained(config, loss):
    """Beside a focal loss a KL divergence of thousands of background priors would be all that an exit learns."""
    term = "early.student.loss_self_logits"
    found = [
        loss_of(distil(dict(SELF, **settings), student=config).eval(), BATCH)[term]
        for settings in ({}, dict(loss=dict(type=loss)))
    ]
    assert found[0] > 0
    assert torch.equal(*found)


def test_batch_of_the_same_images_twice_has_the_same_terms():
    """One square root over the batch would make the features' term larger by the root of 2."""
    model = distil(SELF).eval()
    inputs, samples = BATCH
    once = loss_of(model, BATCH)
    twice = loss_of(model, (torch.cat([inputs, inputs]), [*samples, *samples]))
    for name in ("early.student.loss_self_logits", "early.student.loss_self_features"):
        torch.testing.assert_close(once[name], twice[name], rtol=1e-5, atol=1e-7)


def trained(model, steps=8):
    """Losses and weights of some steps of SGD on images of pixels."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    found = []
    for number in range(steps):
        images, samples = make_batch((2, 3), (64, 96), seed=number)
        pixels = [(image * 40 + 128).clamp(0, 255).byte() for image in images]
        data = model.data_preprocessor(dict(inputs=pixels, data_samples=samples), training=True)
        seed_step(0, number)
        losses = model.loss_at(Progress(number, 0), data["inputs"], data["data_samples"])
        value, logged = model.parse_losses(losses)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append({name: loss.item() for name, loss in logged.items()})
    return found, model.state_dict()


NOTHING = [
    dict(alpha=0, feature_weight=0),
    # Computed, and multiplied by 0.
    dict(alpha=dict(type="linear", end=1.0, epochs=3), feature_weight=dict(type="cosine", end=1.0, epochs=3)),
]


@pytest.mark.parametrize("nothing", NOTHING, ids=["constant", "schedule"])
def test_with_weight_0_networks_and_exits_train_as_without_the_method(nothing):
    settings = dict(
        networks=dict(a=dense("retinanet"), b=other_norm()),
        exits=dict(a=dict(early=EARLY, late=LATE), b=dict(early=EARLY)),
    )
    methods = [dict(SELF, learner=name, **nothing) for name in "ab"]
    runs = [trained(distil(*each, initial=True, **settings).train()) for each in ((), methods)]
    for plain, own in zip(runs[0][0], runs[1][0], strict=True):
        for name, value in plain.items():
            assert own[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
    for name, value in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], value, rtol=1e-6, atol=1e-6)


def test_exits_whose_losses_are_taken_away_leave_a_plain_run():
    """alpha 1 takes the labels away; without the terms of the method the network has the gradients of a plain one."""
    plain = MODELS.build(dense("retinanet")).train()
    model = distil(dict(SELF, alpha=1, feature_weight=0)).train()
    plain.load_state_dict(model.student.state_dict())
    losses = model.loss_at(Progress(), BATCH[0], copy.deepcopy(BATCH[1]))
    assert total(losses["early.loss_cls"]).item() == 0
    value, _ = model.parse_losses({k: v for k, v in losses.items() if "self" not in k})
    value.backward()
    plain.parse_losses(plain.loss(BATCH[0], copy.deepcopy(BATCH[1])))[0].backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(
            dict(model.named_parameters())[name].grad, parameter.grad, rtol=1e-6, atol=1e-6
        )


def test_schedules_give_at_each_place_what_constants_give():
    scheduled = distil(
        dict(
            SELF,
            alpha=dict(type="linear", end=0.5, epochs=4),
            temperature=dict(type="cosine", start=4.0, end=1.0),
            feature_weight=dict(type="exponential", end=0.03, epochs=5),
            loss=dict(type="KDLoss"),
        )
    ).eval()
    place = Progress(iteration=50, epoch=2, max_iters=100)
    # Half of 0.5; half-way between 4 and 1; 0.03 e^(-5 * 0.6^2).
    constant = distil(
        dict(
            SELF,
            alpha=0.25,
            temperature=2.5,
            feature_weight=0.03 * 0.16529888822158653,
            loss=dict(type="KDLoss"),
        )
    ).eval()
    for own, expected in zip(
        loss_of(scheduled, BATCH, place).items(), loss_of(constant, BATCH).items(), strict=True
    ):
        assert own[0] == expected[0]
        torch.testing.assert_close(own[1], expected[1])


# -- Gradients --------------------------------------------------------------------------------------------------------


def reached(model, term):
    model.zero_grad()
    losses = loss_of(model, BATCH)
    losses[term].backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("term", ["logits", "features"])
def test_terms_reach_the_exit_and_the_stages_that_it_shares(term):
    """Not the network's neck and head, nor the stages of its backbone behind the exit's map."""
    model = distil(SELF, exits=dict(student=dict(early=EARLY, late=LATE))).train()
    for name, last in (("early", 2), ("late", 3)):
        names = reached(model, f"{name}.student.loss_self_{term}")
        parts = {
            ".".join(key.split(".")[: 5 if key.startswith("distillation") else 2])
            for key in names
            if not key.startswith(("backbone.conv1", "backbone.bn1"))
        }
        exit_parts = {"neck", "bbox_head"} if term == "logits" else {"neck"}
        assert parts == {
            *(f"distillation.exits.student.{name}.{part}" for part in exit_parts),
            *(f"backbone.layer{stage}" for stage in range(1, last + 1)),
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_exits_of_every_family_learn_from_their_network(family):
    set_epoch(100)  # TOOD's own assigner
    levels = [[0], [0, 1]] if family in WITHOUT_C2 else [[1], [1, 2]]
    exits = dict(student=dict(early=dict(levels=levels[0]), late=dict(levels=levels[1])))
    model = distil(SELF, student=dense(family), exits=exits).train()
    losses = loss_of(model, BATCH)
    own = [name for name in losses if "self" in name]
    assert own == [
        f"{name}.student.loss_self_{term}" for name in ("early", "late") for term in ("logits", "features")
    ]
    assert all(losses[name].isfinite() and losses[name] > 0 for name in own)
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("family", ["paa", "tood", "ddod", "rtmdet", "yolox"])
def test_labels_of_a_dynamic_assigner_can_be_the_networks(family):
    """LabelAssignmentDistillation beside it: the exit's positives are its network's, and its loss is still weighted."""
    set_epoch(100)
    levels = [0] if family in WITHOUT_C2 else [1]
    replay = dict(type="LabelAssignmentDistillation", learner="student.early", taught_by="student")
    model = distil(
        SELF, replay, student=dense(family), exits=dict(student=dict(early=dict(levels=levels)))
    ).train()
    labels = {}
    heads = {name: network.bbox_head for name, network in model.learners.items()}
    with reading_labels(heads["student"]) as deep, reading_labels(heads["student.early"]) as own:
        loss_of(model, BATCH)
    sizes = [length // len(BATCH[0]) for length in map(len, deep._labels)]
    for name, reader in (("deep", deep), ("own", own)):
        labels[name] = torch.cat(reader._labels)
    assert sizes
    assert (labels["deep"] < 3).any()
    assert torch.equal(labels["deep"], labels["own"])


@pytest.mark.parametrize("family", ["retinanet", "atss", "gfl", "fcos"])
def test_labels_of_a_static_assigner_are_the_networks(family):
    model = distil(SELF, student=dense(family)).train()
    heads = {name: network.bbox_head for name, network in model.learners.items()}
    with reading_labels(heads["student"]) as deep, reading_labels(heads["student.early"]) as own:
        loss_of(model, BATCH)
    assert (torch.cat(deep._labels) < 3).any()
    assert torch.equal(torch.cat(deep._labels), torch.cat(own._labels))


# -- Who learns from whom ---------------------------------------------------------------------------------------------


def test_by_default_every_exit_of_the_deployed_network_learns_from_it():
    model = distil(
        SELF,
        networks=dict(a=dense("retinanet"), b=dense("retinanet")),
        deploy="b",
        exits=dict(a=dict(early=EARLY), b=dict(early=EARLY, late=LATE)),
    )
    assert {name: (one.learner, one.route.names) for name, one in model.bound.items()} == {
        "SelfDistillation_b_early": ("b.early", ("b",)),
        "SelfDistillation_b_late": ("b.late", ("b",)),
    }


def test_learner_may_be_another_network_or_one_exit_and_the_teacher_another(tmp_path):
    path = save_checkpoint(build(dense("retinanet"), 1), tmp_path / "teacher.pth")
    model = distil(
        dict(SELF, learner="a"),
        dict(SELF, learner="b.early"),
        dict(SELF, learner="b.late", taught_by="frozen", name="from_frozen"),
        networks=dict(a=dense("retinanet"), b=dense("retinanet")),
        deploy="b",
        exits=dict(a=dict(early=EARLY), b=dict(early=EARLY, late=LATE)),
        teachers=dict(frozen=dict(dense("retinanet"), checkpoint=path)),
    )
    assert {name: (one.learner, one.route.names) for name, one in model.bound.items()} == {
        "SelfDistillation": ("a.early", ("a",)),
        "SelfDistillation_b_early_b": ("b.early", ("b",)),
        "from_frozen": ("b.late", ("frozen",)),
    }
    losses = loss_of(model.train(), BATCH)
    assert {name for name in losses if "self" in name} == {
        f"{start}.loss_self_{term}"
        for start in ("a.early.a", "b.early.b", "b.late")
        for term in ("logits", "features")
    }


def test_exit_of_another_width_gets_connectors():
    early = dict(EARLY, neck=dict(out_channels=16), bbox_head=dict(in_channels=16, feat_channels=16))
    model = distil(SELF, exits=dict(student=dict(early=early))).train()
    names = reached(model, "early.student.loss_self_features")
    assert {name for name in names if name.startswith("distillation.SelfDistillation.features.connectors")}
    links = model.methods[0].links()
    assert [(link.student, link.connector) for link in links[:2]] == [
        ("bbox_head", ""),
        ("neck[0]", "ConvConnector 16 -> 32"),
    ]


def test_what_has_no_weight_is_not_computed():
    only = distil(dict(SELF, feature_weight=0)).train()
    assert set(loss_of(only, BATCH)) == {
        *("loss_cls", "loss_bbox", "early.loss_cls", "early.loss_bbox"),
        "early.student.loss_self_logits",
    }
    assert only.methods[0].modules_read(False) == (("bbox_head",), ("bbox_head",))
    assert only.methods[0].loss_weights() == {"loss_self_logits": 0.3}
    features = distil(dict(SELF, alpha=0)).train()
    assert "early.student.loss_self_logits" not in loss_of(features, BATCH)
    assert features.methods[0].loss_weights() == {"loss_self_features": 0.03}


def test_logits_of_the_network_are_read_once_for_all_exits(monkeypatch):
    exits = dict(student=dict(early=EARLY, later=LATE))
    model = distil(dict(SELF, feature_weight=0), exits=exits).train()
    read = []

    def counted(head, *args):
        read.append(head)
        return class_logits(head, *args)

    monkeypatch.setattr(dense_logits, "class_logits", counted)
    loss_of(model, BATCH)
    heads = [model.learners[name].bbox_head for name in ("student", "student.early", "student.later")]
    assert [read.count(head) for head in heads] == [1, 1, 1]


def test_another_loss_of_logits_takes_the_place_of_kl():
    model = distil(dict(SELF, alpha=0.5, loss=dict(type="QualityKDLoss"), feature_weight=0)).eval()
    same = distil(
        dict(
            type="DenseLogitDistillation",
            learner="student.early",
            taught_by="student",
            loss=dict(type="QualityKDLoss"),
        )
    ).eval()
    torch.testing.assert_close(
        loss_of(model, BATCH)["early.student.loss_self_logits"],
        0.5 * loss_of(same, BATCH)["early.student.loss_kd"],
    )


# -- Precision, accumulation ------------------------------------------------------------------------------------------


def test_in_bfloat16_every_term_is_float32_and_near():
    model = distil(SELF).eval()
    exact = loss_of(model, BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss_of(model, BATCH)
    for name in ("early.student.loss_self_logits", "early.student.loss_self_features"):
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(exact[name].item(), rel=0.1)


def of_batch_norms():
    """An RTMDet with batch norms in its head, as MMDetection has it."""
    config = dense("rtmdet")
    config.bbox_head.norm_cfg = dict(type="BN")
    return config


def test_batch_of_one_image_whose_norms_need_two_is_answered_in_one_line():
    """32 x 32 pixels at stride 32 are one value a channel."""
    model = distil(SELF, student=of_batch_norms(), exits=dict(student=dict(early=dict(levels=[0])))).train()
    message = "student: a batch or group norm has a single value .* a batch of 1 of 32x32 pixels: train with at least"
    with pytest.raises(UnsupportedError, match=message) as refused:
        loss_of(model, make_batch((2,), (32, 32)))
    assert "\n" not in str(refused.value)
    early = dict(EARLY, neck=dict(norm_cfg=dict(type="BN")))
    model = distil(SELF, student=dense("retinanet"), exits=dict(student=dict(early=early))).train()
    with pytest.raises(UnsupportedError, match=r"student.early: a batch or group norm .* 64x64 pixels"):
        loss_of(model, make_batch((2,), (64, 64)))
    assert loss_of(model, make_batch((2, 1), (64, 64)))["early.loss_cls"].isfinite()


# -- Mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "settings", "message"),
    [
        ([dict(SELF, alpha=1.5)], {}, "SelfDistillation: alpha must be at most 1, got 1.5"),
        ([dict(SELF, temperature=0)], {}, "SelfDistillation: temperature must be above 0, got 0"),
        ([dict(SELF, feature_weight="x")], {}, "SelfDistillation: feature_weight must be a number"),
        ([dict(SELF, loss=dict(type="KDLoss", temperature=2))], {}, "temperature is a setting of the method"),
        ([dict(SELF, temperature=3.0)], {}, "temperature has no meaning for QualityKDLoss: leave it out"),
        (
            [SELF],
            dict(exits=dict()),
            r"SelfDistillation trains exits, and 'student' has none: add exits=dict\(student",
        ),
        (
            [dict(SELF, learner="student.earl")],
            {},
            "no trained network or exit 'student.earl'; nearest: student.early",
        ),
        ([dict(SELF, learner=3)], {}, "learner names no trained network or exit 3"),
        ([dict(SELF, taught_by="student.early")], {}, "'student.early' cannot learn from its own outputs"),
        (
            [SELF, dict(SELF, name="again")],
            {},
            "again and SelfDistillation both weight the own loss of 'student.early'",
        ),
        (
            [SELF],
            dict(student=two_stage("faster")),
            "FasterRCNN has no dense head whose priors an exit could share",
        ),
        (
            [dict(SELF, taught_by="b")],
            dict(
                networks=dict(a=dense("retinanet"), b=dense("gfl")),
                exits=dict(a=dict(early=EARLY)),
            ),
            "SelfDistillation compares two heads prior by prior, and",
        ),
        (
            [SELF],
            dict(student_loss=False),
            "networks that are trained together, and exits, learn their own losses",
        ),
    ],
)
def test_wrong_settings_are_answered_in_one_line(methods, settings, message):
    with pytest.raises((ConfigError, UnsupportedError), match=message) as refused:
        distil(*methods, **settings)
    assert "\n" not in str(refused.value)
