"""Several teachers: which one a method learns from, and ensembles."""

import copy

from lad.errors import ConfigError, UnsupportedError
from lad.methods import DistillationMethod
from lad.methods.roi.heads import forward_stage
from lad.networks import ensemble as ensembles
from lad.networks.ensemble import TeacherEnsemble, attend, average, combine
from lad.networks.frozen import FrozenTeacher

import pytest
import torch
from helpers import build, fake_cuda, make_batch, save_checkpoint, small_detector, small_paa
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.model import ExponentialMovingAverage
from seam_detectors import small
from torch import nn
from two_stage_detectors import random_teacher, two_stage

SOFT = dict(type="SoftLabelDistillation")
PROBABILITIES = dict(type="ProbabilityFocalLoss", use_sigmoid=True)
AUTOASSIGN = "mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py"


@MODELS.register_module(force=True)
class NeckProbe(DistillationMethod):
    """The mean of a level of the teacher's neck, which tells which teacher it reads."""

    teacher_modules = ("neck",)
    compares_classes = False

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def losses(self, step):
        return dict(loss_neck=self.factor * step.teacher.outputs["neck"][0].mean())


def distil(teachers, *methods, **options):
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=small_paa(),
            teachers=teachers,
            methods=list(methods),
            **options,
        )
    )
    model.student.load_state_dict(build(small_paa()).state_dict())
    return model.train()


@pytest.fixture
def pair(teacher_spec):
    """Two teachers of one architecture and other weights."""
    return dict(a=teacher_spec(seed=1), b=teacher_spec(seed=2))


def neck_of(teacher, batch):
    return teacher.run(*batch, ["neck"])["neck"]


def test_each_method_hears_its_own_teacher_and_losses_begin_with_its_name(pair):
    batch = make_batch()
    model = distil(pair, dict(type="NeckProbe", taught_by="a"), dict(type="NeckProbe", taught_by="b"))
    losses = model.loss(*batch)
    means = {name: neck_of(teacher, batch)[0].mean() for name, teacher in model.teachers.items()}
    assert means["a"] != means["b"]
    for name, value in means.items():
        torch.testing.assert_close(losses[f"{name}.loss_neck"], value)
    assert list(model.distillation) == ["NeckProbe", "NeckProbe_b"]
    total, logged = model.parse_losses(losses)
    assert {"a.loss_neck", "b.loss_neck"} <= set(logged)
    expected = sum(sum(v) if isinstance(v, list) else v for v in losses.values())
    torch.testing.assert_close(total, expected)


def test_teachers_run_once_a_step_and_only_those_that_a_method_reads(pair, teacher_spec):
    model = distil(
        dict(pair, c=teacher_spec(seed=3)),
        dict(type="NeckProbe", taught_by="b"),
        dict(type="NeckProbe", taught_by=["a", "b"], ensemble="average"),
    )
    calls = []
    for name, teacher in model.teachers.items():
        teacher.model.backbone.register_forward_hook(lambda *_, name=name: calls.append(name))
        teacher.model.bbox_head.register_forward_hook(lambda *_: calls.append("head"))
    model.loss(*make_batch())
    assert sorted(calls) == ["a", "b"]


def test_teachers_are_hidden_follow_the_detector_and_are_shared_by_copies(pair):
    model = distil(pair, dict(type="NeckProbe", taught_by=["a", "b"], ensemble="average"))
    hidden = [t for teacher in model.teachers.values() for t in teacher.model.parameters()]
    assert not {id(t) for t in hidden} & {id(t) for t in [*model.parameters(), *model.buffers()]}
    assert set(model.state_dict()) == {*build(small_paa()).state_dict(), "distillation.NeckProbe.factor"}
    ema = ExponentialMovingAverage(model, device="meta")
    assert all(t.device.type == "cpu" for t in hidden)
    assert ema.module.teachers["b"].model is model.teachers["b"].model
    assert ema.module.teacher_of("NeckProbe").model is model.teachers["a"].model
    assert ema.module.teacher_of("NeckProbe").members["b"].model is model.teachers["b"].model
    model.to(torch.float64)
    assert all(
        t.dtype == torch.float64 for teacher in model.teachers.values() for t in teacher.model.parameters()
    )


def test_average_of_two_equal_teachers_is_one_of_them(pair):
    batch = make_batch()
    twins = dict(a=pair["a"], b=copy.deepcopy(pair["a"]))
    one = distil(twins, dict(SOFT, taught_by="a")).loss(*copy.deepcopy(batch))
    for ensemble in ("average", "attention"):
        both = distil(twins, dict(SOFT, taught_by=["a", "b"], ensemble=ensemble)).loss(*copy.deepcopy(batch))
        for name in ("cls", "bbox", "iou"):
            torch.testing.assert_close(both[f"a+b.loss_soft_{name}"], one[f"a.loss_soft_{name}"])


def test_ensemble_averages_outputs(pair):
    batch = make_batch()
    model = distil(pair, dict(type="NeckProbe", taught_by=["a", "b"], ensemble="average"))
    expected = sum(neck_of(teacher, batch)[0].mean() for teacher in model.teachers.values()) / 2
    torch.testing.assert_close(model.loss(*batch)["a+b.loss_neck"], expected)


def test_average_and_attention_by_hand():
    """Logits 0 and ln 3: weights 1/4 and 3/4, so 3/4 ln 3; two equal ones stay as they are."""
    ln3 = torch.tensor(3.0).log()
    first, second = torch.tensor([0.0, 2.0]), torch.stack([ln3, torch.tensor(2.0)])
    torch.testing.assert_close(attend([first, second]), torch.stack([0.75 * ln3, torch.tensor(2.0)]))
    torch.testing.assert_close(average([first, second]), torch.stack([ln3 / 2, torch.tensor(2.0)]))
    assert average([torch.tensor([3]), torch.tensor([4])]).tolist() == [3]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_attention_lies_between_average_and_maximum_whatever_the_order(seed, count):
    logits = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)) * 4
    attended = attend(list(logits))
    assert (attended >= logits.mean(dim=0) - 1e-5).all()
    assert (attended <= logits.amax(dim=0) + 1e-5).all()
    torch.testing.assert_close(attend(list(logits.flip(0))), attended)


def test_attention_weighs_class_logits_and_averages_the_other_outputs():
    one, other = ([torch.zeros(2)], [torch.zeros(2)]), ([torch.full((2,), 8.0)], [torch.full((2,), 8.0)])
    (logits,), (boxes,) = combine([one, other], "attention")
    assert (logits > 7.9).all()
    assert boxes.tolist() == [4, 4]


def test_answers_of_other_shapes_cannot_be_combined():
    with pytest.raises(UnsupportedError, match="differ in shape"):
        combine([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(UnsupportedError, match="differ in shape"):
        combine([[torch.zeros(2)], [torch.zeros(2)] * 2])


def test_ensemble_members_that_do_not_correspond_are_refused(pair, teacher_spec):
    both = dict(taught_by=["a", "b"], ensemble="average")
    wide = dict(pair, b=teacher_spec(small_detector("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"), seed=3))
    with pytest.raises(UnsupportedError, match="RetinaNet"):
        distil(wide, dict(SOFT, **both))
    coder = small_paa(base=16, bbox_coder=dict(target_stds=[0.2, 0.2, 0.4, 0.4]))
    with pytest.raises(UnsupportedError, match=r"another bbox_head.bbox_coder"):
        distil(dict(pair, b=teacher_spec(coder, seed=3)), dict(SOFT, **both))
    thin = small_paa(base=16)
    thin.neck.out_channels = thin.bbox_head.in_channels = 16
    with pytest.raises(
        UnsupportedError, match=r"'neck' returns .*\(2, 32, 16, 16\).* and .*\(2, 16, 16, 16\)"
    ):
        distil(dict(pair, b=teacher_spec(thin, seed=3)), dict(type="NeckProbe", **both))
    with pytest.raises(UnsupportedError, match=r"weighs the class logits .* reads neck"):
        distil(pair, dict(type="NeckProbe", taught_by=["a", "b"], ensemble="attention"))
    with pytest.raises(UnsupportedError, match="LabelAssignmentDistillation learns from one teacher"):
        distil(pair, dict(type="LabelAssignmentDistillation", **both))
    order = dict(a=teacher_spec(seed=1, dataset_meta=dict(classes=("x", "y", "z"))))
    order["b"] = teacher_spec(seed=2, dataset_meta=dict(classes=("x", "z", "y")))
    with pytest.raises(ConfigError, match="a and b were trained on other classes"):
        distil(order, dict(SOFT, **both))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (SOFT, "SoftLabelDistillation: name its teacher, taught_by='a'; there are a, b"),
        (dict(SOFT, taught_by="c"), "no teacher 'c'.*; there are a, b"),
        (dict(SOFT, taught_by=["a", "b"]), "go with ensemble='average' or 'attention'"),
        (dict(SOFT, taught_by="a", ensemble="average"), "one goes without"),
        (dict(SOFT, taught_by=["a", "a"], ensemble="average"), "each teacher once"),
        (
            dict(SOFT, taught_by=["a", "b"], ensemble="mean"),
            "ensemble must be one of average, attention, got 'mean'",
        ),
        (dict(SOFT, taught_by=3), "taught_by must be the name of a teacher or a list of names, got 3"),
        (dict(SOFT, taught_by=["a", 3]), r"taught_by must be .* got \['a', 3\]"),
    ],
)
def test_unclear_teacher_is_refused(pair, method, says):
    with pytest.raises(ConfigError, match=says):
        distil(pair, method)


def test_one_or_several_but_not_both_nor_none(pair):
    with pytest.raises(ConfigError, match="got both"):
        distil(pair, teacher=pair["a"])
    with pytest.raises(ConfigError, match="got neither"):
        distil(None)
    with pytest.raises(ConfigError, match="cannot be called 'a-1'"):
        distil({"a-1": pair["a"]})
    with pytest.raises(ConfigError, match="cannot be called 1: use a plain word"):
        distil({1: pair["a"]})
    with pytest.raises(ConfigError, match="b needs a checkpoint"):
        distil(dict(pair, b=dict(type="PAA")))
    model = distil(pair)
    with pytest.raises(ConfigError, match=r"there are 2 frozen teachers \(a, b\): name one"):
        _ = model.teacher


def test_one_teacher_needs_no_name_and_losses_stay_plain(pair):
    model = distil(dict(a=pair["a"]), dict(type="NeckProbe"))
    assert "loss_neck" in model.loss(*make_batch())


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda():
        heads = [
            ([torch.randn(2, 3, 4, 4, device="cuda")], [torch.randn(2, 4, 4, 4, device="cuda")]) for _ in "ab"
        ]
        for ensemble in ("average", "attention"):
            (logits,), (boxes,) = combine(heads, ensemble)
            assert (logits.device.type, logits.shape) == ("cuda", (2, 3, 4, 4))
            assert (boxes.device.type, boxes.shape) == ("cuda", (2, 4, 4, 4))


def ensemble_of(networks, combination):
    members = {name: FrozenTeacher(model, None) for name, model in zip("ab", networks, strict=True)}
    return TeacherEnsemble(members, combination)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (small("tood"), "TOODHead, predicts probabilities"),
        (small_paa("PAACOPHead", loss_cls=PROBABILITIES), "PAACOPHead, predicts probabilities"),
        (small_paa("PAAIOPHead", loss_cls=PROBABILITIES), "PAAIOPHead, predicts probabilities"),
        (small("yolox"), "YOLOXHead, predicts an objectness"),
        (small_detector(AUTOASSIGN), "AutoAssignHead, predicts an objectness"),
    ],
    ids=["tood", "cop", "iop", "yolox", "autoassign"],
)
def test_heads_without_class_logits_cannot_be_attended_to_but_averaged(config, says):
    networks = [build(config, seed) for seed in (1, 2)]
    with pytest.raises(UnsupportedError, match=f"bbox_head, {says}.*use ensemble='average'"):
        ensemble_of(networks, "attention").check_weighable(["bbox_head"])
    ensemble_of(networks, "average").check_weighable(["bbox_head"])


@pytest.mark.parametrize("use_sigmoid", [False, True])
def test_roi_heads_are_attended_to_proposal_by_proposal(tmp_path, use_sigmoid):
    """Of a softmax it is the probabilities that weigh: a constant added to all logits of one teacher says nothing."""
    head = dict(loss_cls=dict(use_sigmoid=use_sigmoid))
    networks = dict(a=random_teacher(two_stage(base=16, head=head)), b=random_teacher(two_stage(head=head)))
    with torch.no_grad():
        networks["a"].roi_head.bbox_head.fc_cls.bias += 0.0 if use_sigmoid else 5.0
    teachers = {
        name: dict(network.own_config, checkpoint=save_checkpoint(network, tmp_path / f"{name}.pth"))
        for name, network in networks.items()
    }
    method = dict(type="RoILogitDistillation", taught_by=["a", "b"], ensemble="attention")
    student = two_stage(head=head)
    model = MODELS.build(
        dict(type="DistillationDetector", student=student, teachers=teachers, methods=[method])
    ).train()
    [method] = model.methods
    seen = []
    method.compare = lambda head, outputs, scores, boxes: seen.append((outputs.rois, scores, boxes)) or {}
    images, samples = make_batch()
    model.loss(images, samples)
    [(rois, scores, boxes)] = seen
    answers = [
        forward_stage(teacher.model.roi_head, 0, teacher.model.extract_feat(images), rois)
        for teacher in model.teachers.values()
    ]
    logits = [answer if use_sigmoid else answer.log_softmax(dim=1) for answer, _ in answers]
    weights = [logit.exp() / sum(other.exp() for other in logits) for logit in logits]
    torch.testing.assert_close(scores, sum(w * logit for w, logit in zip(weights, logits, strict=True)))
    torch.testing.assert_close(boxes, (answers[0][1] + answers[1][1]) / 2)


def test_anchors_and_coders_count_where_a_method_learns_from_them(tmp_path):
    """One teacher has other anchors in its RPN, one another coder there; RoI heads are alike."""
    plain, stds, anchors = (
        random_teacher(two_stage(base=16, rpn_head=head))
        for head in (
            None,
            dict(bbox_coder=dict(target_stds=[0.5, 0.5, 0.5, 0.5])),
            dict(anchor_generator=dict(scales=[4])),
        )
    )
    specs = {}
    for name, network in dict(a=plain, b=stds, c=anchors).items():
        path = save_checkpoint(network, tmp_path / f"{name}.pth")
        specs[name] = dict(network.own_config, checkpoint=path)

    def build_with(method, names):
        config = dict(type=method, taught_by=names, ensemble="average")
        teachers = {name: specs[name] for name in names}
        student = two_stage()
        return MODELS.build(
            dict(type="DistillationDetector", student=student, teachers=teachers, methods=[config])
        )

    with pytest.raises(UnsupportedError, match=r"'a' and 'b' .* they have another rpn_head.bbox_coder"):
        build_with("RPNDistillation", ["a", "b"])
    for name in ("b", "c"):
        for method in ("RoILogitDistillation", "HintDistillation"):
            assert build_with(method, ["a", name]).taught_by(method) == f"a+{name}"
    with pytest.raises(UnsupportedError, match=r"another rpn_head\.prior_generator"):
        ensemble_of([plain, anchors], "average").check_units(["rpn_head"])
    ensemble_of([plain, anchors], "average").check_units(["roi_head"])


def test_an_ensemble_is_combined_once_a_step_for_all_who_listen_to_it(pair, monkeypatch):
    both = dict(type="NeckProbe", taught_by=["a", "b"], ensemble="average")
    model = distil(pair, both, dict(both, name="again"), dict(type="NeckProbe", taught_by="a", name="alone"))
    model.distillation["again"].losses = lambda step: dict(loss_again=step.teacher.outputs["neck"][0].mean())
    model.distillation["alone"].losses = lambda step: dict(loss_alone=step.teacher.outputs["neck"][0].mean())
    calls = []
    original = ensembles.combine
    monkeypatch.setattr(ensembles, "combine", lambda *args: calls.append(1) or original(*args))
    losses = model.loss(*make_batch((1, 1)))
    assert len(calls) == 1
    torch.testing.assert_close(losses["a+b.loss_neck"], losses["a+b.loss_again"])
    assert losses["a.loss_alone"] != losses["a+b.loss_again"]
    model.loss(*make_batch((1, 1), seed=1))
    assert len(calls) == 2


def test_gradient_passes_through_an_ensemble_to_what_the_student_handed_over(pair):
    """Half of it through each."""
    model = distil(pair, dict(type="NeckProbe", taught_by="a"))
    views = [teacher.view(*make_batch((1, 1)), ["neck"]) for teacher in model.teachers.values()]
    handed = torch.ones(1, 32, 2, 2, requires_grad=True)

    def finish(network, features):
        return network.neck.fpn_convs[0].conv(features)

    answer = ensembles.EnsembleView(views, "average").forward_through(finish, handed)
    torch.testing.assert_close(answer, sum(view.forward_through(finish, handed) for view in views) / 2)
    answer.sum().backward()
    assert handed.grad.abs().sum() > 0
