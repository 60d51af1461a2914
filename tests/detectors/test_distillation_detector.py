"""The promises about what a distillation detector shows to the outside."""

import copy

from lad.errors import ConfigError, UnsupportedError
from lad.methods import DistillationMethod

import pytest
import torch
from helpers import build, make_batch, small_detector, small_paa
from mmdet.registry import MODELS
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import nn

LAD = dict(type="LabelAssignmentDistillation")


@MODELS.register_module(force=True)
class ProbeMethod(DistillationMethod):
    """A method with an adapter and a weight: what the catalogue's methods look like from outside."""

    teacher_modules = ("neck",)
    student_modules = ("neck",)

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.connector = nn.Conv2d(32, 32, 1)

    def losses(self, step):
        pairs = zip(step.outputs["neck"], step.teacher.outputs["neck"], strict=True)
        # Averaged over the map: the levels of two detectors may differ in size.
        differences = [self.connector(s).mean(dim=(2, 3)) - t.mean(dim=(2, 3)) for s, t in pairs]
        return dict(loss_probe=self.weight * sum(difference.square().mean() for difference in differences))


def distil(teacher: dict, methods=(LAD,), student: dict | None = None, seed: int = 0):
    """A distillation detector whose student has the weights of ``build(student, seed)``."""
    student = student or small_paa()
    model = MODELS.build(
        dict(
            type="DistillationDetector", student=student, teacher=teacher, methods=[dict(m) for m in methods]
        )
    )
    model.student.load_state_dict(build(student, seed).state_dict())
    return model


def test_state_dict_holds_the_students_keys_in_order_and_adapters_under_distillation(teacher_spec):
    plain = build(small_paa()).state_dict()
    model = distil(teacher_spec(), [LAD, dict(type="ProbeMethod")])
    for state in (model.state_dict(), get_state_dict(model)):
        adapters = [key for key in state if key.startswith("distillation.")]
        assert adapters == [
            "distillation.ProbeMethod.connector.weight",
            "distillation.ProbeMethod.connector.bias",
        ]
        assert [key for key in state if key not in adapters] == list(plain)
        assert all(torch.equal(state[key], value) for key, value in plain.items())
        assert state._metadata["backbone.bn1"] == plain_metadata()["backbone.bn1"]
        assert not any(key.startswith("student") for key in state._metadata)


def plain_metadata():
    return build(small_paa()).state_dict()._metadata


def test_plain_detector_loads_the_checkpoint_strictly(teacher_spec):
    model = distil(teacher_spec())
    plain = build(small_paa("PAAHead"), seed=5)
    plain.load_state_dict(model.state_dict(), strict=True)


def test_checkpoints_load_back_with_torch_and_with_mmengine(teacher_spec):
    spec = teacher_spec()
    methods = [LAD, dict(type="ProbeMethod")]
    state = distil(spec, methods, seed=3).state_dict()
    for load in (
        lambda model: model.load_state_dict(state, strict=True),
        lambda model: load_state_dict(model, state, strict=True),
    ):
        model = distil(spec, methods)
        load(model)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_loading_reports_missing_and_unexpected_keys(teacher_spec):
    model = distil(teacher_spec())
    state = model.state_dict()
    removed = state.pop("backbone.conv1.weight")
    state["backbone.nonsense"] = removed
    result = model.load_state_dict(state, strict=False)
    assert result.missing_keys == ["student.backbone.conv1.weight"]
    assert result.unexpected_keys == ["student.backbone.nonsense"]


def test_teacher_is_in_no_parameter_list_state_dict_or_module_tree(teacher_spec):
    model = distil(teacher_spec())
    teacher = {id(tensor) for tensor in [*model.teacher.model.parameters(), *model.teacher.model.buffers()]}
    assert teacher
    assert not teacher & {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    assert not any(module is model.teacher.model for module in model.modules())
    assert len(list(model.parameters())) == len(list(model.student.parameters()))


def test_teacher_follows_the_detector_to_another_device_and_dtype(teacher_spec):
    model = distil(teacher_spec()).to("meta")
    assert all(p.device.type == "meta" for p in model.teacher.model.parameters())
    model = distil(teacher_spec()).double()
    assert all(p.dtype == torch.float64 for p in model.teacher.model.parameters())


def test_copies_share_the_teacher_and_own_their_student(teacher_spec):
    model = distil(teacher_spec(), [LAD, dict(type="ProbeMethod")])
    twin = copy.deepcopy(model)
    assert twin.teacher.model is model.teacher.model
    with torch.no_grad():
        twin.backbone.conv1.weight.add_(1)
    assert not torch.equal(model.backbone.conv1.weight, twin.backbone.conv1.weight)
    assert list(twin.state_dict()) == list(model.state_dict())


def test_ema_on_another_device_leaves_the_teacher_where_it_is(teacher_spec):
    model = distil(teacher_spec())
    ema = ExponentialMovingAverage(model, device="meta")
    assert next(ema.module.parameters()).device.type == "meta"
    assert next(model.teacher.model.parameters()).device.type == "cpu"


def test_ema_averages_the_student_alone(teacher_spec):
    model = distil(teacher_spec())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ema = ExponentialMovingAverage(model, momentum=0.25)
    ema.update_parameters(model)
    with torch.no_grad():
        model.backbone.conv1.weight.add_(4)
    ema.update_parameters(model)
    averaged = ema.module.state_dict()
    assert list(averaged) == list(before)
    torch.testing.assert_close(averaged["backbone.conv1.weight"], before["backbone.conv1.weight"] + 1)


def test_training_changes_the_student_and_leaves_the_teacher_bit_for_bit(teacher_spec):
    model = distil(teacher_spec(), [LAD, dict(type="ProbeMethod")]).train()
    before = {key: value.clone() for key, value in model.teacher.model.state_dict().items()}
    student_before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, samples = make_batch()
    sum(model.loss(inputs, samples).values()).backward()
    optimizer.step()
    after = model.teacher.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.model.parameters())
    changed = [
        key for key, value in model.state_dict().items() if not torch.equal(value, student_before[key])
    ]
    assert "backbone.conv1.weight" in changed
    assert "distillation.ProbeMethod.connector.weight" in changed


def test_train_and_eval_never_change_the_teachers_modes(teacher_spec):
    model = distil(teacher_spec())
    modes = [module.training for module in model.teacher.model.modules()]
    assert sum(modes) == 2  # the detector and its head alone
    for mode in (True, False):
        model.train(mode)
        assert [module.training for module in model.teacher.model.modules()] == modes


FASTER_RCNN = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
FCOS = "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"


@pytest.mark.parametrize(
    ("student", "teacher"), [(FASTER_RCNN, FCOS), (FCOS, FASTER_RCNN), (RETINANET, RETINANET)]
)
def test_any_detector_can_be_student_or_teacher(teacher_spec, student, teacher):
    """Zero weights give the plain student's losses, whatever the two detectors are."""
    inputs, samples = make_batch(size=(128, 128))
    student = small_detector(student)
    model = distil(
        teacher_spec(small_detector(teacher)), [dict(type="ProbeMethod", weight=0.0)], student
    ).train()
    plain = build(student).train()
    torch.manual_seed(0)  # two-stage detectors sample their proposals
    expected = plain.loss(inputs, copy.deepcopy(samples))
    torch.manual_seed(0)
    losses = model.loss(inputs, copy.deepcopy(samples))
    assert losses.pop("loss_probe") == 0
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-6)


def test_zero_weight_is_plain_training(teacher_spec):
    inputs, samples = make_batch()
    plain = build(small_paa()).train().loss(inputs, samples)
    losses = distil(teacher_spec(), [dict(type="ProbeMethod", weight=0.0)]).train().loss(inputs, samples)
    assert losses.pop("loss_probe") == 0
    assert losses.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("head", ["PAAHead", "BatchedPAAHead"])
def test_teacher_with_the_students_weights_leaves_the_losses_unchanged(teacher_spec, head):
    inputs, samples = make_batch()
    config = small_paa(head)
    student = build(config).eval()  # eval: the teacher's batch norm uses running statistics
    student.training = student.bbox_head.training = True
    model = distil(teacher_spec(config, seed=0), student=config)
    model.student.eval()
    plain, distilled = student.loss(inputs, samples), model.loss(inputs, samples)
    for name, value in plain.items():
        torch.testing.assert_close(distilled[name], value, rtol=1e-6, atol=1e-6)


def test_another_teacher_changes_the_losses(teacher_spec):
    """The control of the test above: a replay that did nothing would pass it."""
    inputs, samples = make_batch()
    model = distil(teacher_spec(seed=1))
    plain = build(small_paa()).train().loss(inputs, samples)
    assert not torch.allclose(model.train().loss(inputs, samples)["loss_cls"], plain["loss_cls"], rtol=1e-4)


def test_attributes_and_predictions_are_the_students(teacher_spec):
    model = distil(teacher_spec()).eval()
    student = model.student
    assert model.backbone is student.backbone
    assert model.bbox_head is student.bbox_head
    assert model.with_neck
    assert model.with_bbox
    inputs, samples = make_batch()
    expected = student.predict(inputs, copy.deepcopy(samples))
    for result, wanted in zip(model.predict(inputs, copy.deepcopy(samples)), expected, strict=True):
        assert torch.equal(result.pred_instances.bboxes, wanted.pred_instances.bboxes)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = model.nothing


def test_parameter_names_are_the_checkpoints_so_that_layer_decay_finds_the_backbone(teacher_spec):
    model = distil(teacher_spec())
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in model.student.named_parameters()
    ]
    assert next(model.named_parameters(prefix="module"))[0] == "module.backbone.conv1.weight"
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type="SGD", lr=1.0),
            paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
        ),
    )
    rates = {id(group["params"][0]): group["lr"] for group in wrapper.param_groups}
    assert rates[id(model.backbone.conv1.weight)] == pytest.approx(0.1)
    assert rates[id(model.bbox_head.atss_cls.weight)] == 1.0


def test_students_initial_weights_do_not_depend_on_the_teacher_or_the_methods(teacher_spec):
    spec = teacher_spec()
    torch.manual_seed(7)
    plain = MODELS.build(small_paa())
    plain.init_weights()
    torch.manual_seed(7)
    model = MODELS.build(
        dict(
            type="DistillationDetector", student=small_paa(), teacher=spec, methods=[dict(type="ProbeMethod")]
        )
    )
    model.init_weights()
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_two_methods_of_one_name_are_refused_and_names_are_given_by_the_config(teacher_spec):
    spec = teacher_spec()
    with pytest.raises(ConfigError, match="two methods are called 'ProbeMethod'"):
        distil(spec, [dict(type="ProbeMethod")] * 2)
    model = distil(spec, [dict(type="ProbeMethod", name="other")])
    assert "distillation.other.connector.weight" in model.state_dict()
    model = distil(spec, [dict(type="ProbeMethod"), dict(type="ProbeMethod", name="other")])
    with pytest.raises(ConfigError, match="loss_probe"):
        model.train().loss(*make_batch())


def test_nothing_to_train_on_is_refused(teacher_spec):
    with pytest.raises(ConfigError, match="student_loss=False leaves nothing to train on"):
        MODELS.build(
            dict(
                type="DistillationDetector",
                student=small_paa(),
                teacher=teacher_spec(),
                methods=[LAD],
                student_loss=False,
            )
        )


def test_teacher_runs_once_a_step_without_gradient_and_only_as_far_as_asked(teacher_spec):
    model = distil(teacher_spec(), [dict(type="ProbeMethod")]).train()
    calls = []
    for name in ("backbone", "bbox_head"):
        getattr(model.teacher.model, name).register_forward_hook(
            lambda *args, name=name: calls.append((name, torch.is_grad_enabled()))
        )
    model.loss(*make_batch())
    assert calls == [("backbone", False)]
    model = distil(teacher_spec(), [LAD, dict(type="ProbeMethod")]).train()
    for name in ("backbone", "bbox_head"):
        getattr(model.teacher.model, name).register_forward_hook(
            lambda *args, name=name: calls.append((name, torch.is_grad_enabled()))
        )
    model.loss(*make_batch())
    assert calls[1:] == [("backbone", False), ("bbox_head", False)]


def test_state_by_the_names_of_modules_loads_as_hooks_of_mmdetection_write_it(teacher_spec):
    """MMDetection's SyncNormHook goes by named_modules, where the student has its prefix."""
    model = distil(teacher_spec())
    state = {
        f"student.{key}": value + 1 for key, value in model.state_dict().items() if "running_mean" in key
    }
    before = model.backbone.bn1.running_mean.clone()
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    assert torch.equal(model.backbone.bn1.running_mean, before + 1)


def test_label_assignment_has_nothing_to_steer_without_the_students_loss(teacher_spec):
    methods = [dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")]
    with pytest.raises(UnsupportedError, match="steers the student's own loss"):
        MODELS.build(
            dict(
                type="DistillationDetector",
                student=small_paa(),
                teacher=teacher_spec(),
                methods=methods,
                student_loss=False,
            )
        )


def test_what_the_neck_is_given_can_be_taught_and_the_images_cannot(teacher_spec):
    hint = dict(type="HintDistillation", student="neck:input", teacher="neck:input")
    model = distil(teacher_spec(), [hint])
    losses = model.loss(*make_batch((1, 1), size=(64, 64)))
    (gradient,) = torch.autograd.grad(losses["loss_hint"], [model.backbone.conv1.weight])
    assert gradient.abs().sum() > 0
    with pytest.raises(
        UnsupportedError, match="'backbone:input' of the student are the images, from which nothing"
    ):
        distil(teacher_spec(), [dict(hint, student="backbone:input", teacher="backbone:input")])


def test_output_that_the_student_overwrites_is_refused_before_training_and_in_a_step(teacher_spec):
    inner = "backbone.layer3.0.bn1"
    with pytest.raises(
        ConfigError, match=rf"the output of '{inner}' was overwritten in place .* 'NEXT:input'"
    ):
        distil(teacher_spec(), [dict(type="HintDistillation", student=inner, teacher="backbone.layer3")])
    model = distil(teacher_spec(), [dict(type="ProbeMethod")])
    probe = model.distillation["ProbeMethod"]
    for side in ("student_modules", "teacher_modules"):
        setattr(probe, side, ("neck", inner))
    probe.losses = lambda step: dict(loss_probe=step.outputs[inner].mean())
    with pytest.raises(ConfigError, match="overwritten"):
        model.loss(*make_batch((1, 1), size=(64, 64)))
    probe.losses = lambda step: dict(loss_probe=step.teacher.outputs[inner].mean())
    with pytest.raises(ConfigError, match="overwritten"):
        model.loss(*make_batch((1, 1), size=(64, 64)))
