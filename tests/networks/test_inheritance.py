"""A student that starts with its teacher's weights."""

from lad.errors import ConfigError
from lad.networks.initialisation import find_inheritance, wanted_modules

import pytest
import torch
from helpers import small_paa
from mmdet.registry import MODELS
from torch import nn


def distil(spec, modules, **settings):
    """A student of 8 base channels of a teacher of 16; necks and heads are as wide as each other's."""
    teacher = {} if "teachers" in settings else dict(teacher=spec)
    return MODELS.build(
        dict(
            type="DistillationDetector",
            student=small_paa(),
            initialise_from_teacher=modules,
            methods=[],
            **teacher,
            **settings,
        )
    )


def equal(model, name):
    return torch.equal(model.state_dict()[name], model.teacher.model.state_dict()[name])


def test_weights_are_the_teachers_after_init_weights(teacher_spec):
    model = distil(teacher_spec(), ["neck", "bbox_head"])
    model.init_weights()
    heads = [name for name in model.state_dict() if name.startswith("bbox_head.")]
    assert heads
    assert all(equal(model, name) for name in heads)
    assert equal(model, "neck.fpn_convs.0.conv.weight")
    # 16 channels against 32 where the neck takes the backbone's maps.
    name = "neck.lateral_convs.0.conv.weight"
    assert model.state_dict()[name].shape != model.teacher.model.state_dict()[name].shape


def test_it_says_what_was_copied_and_what_not(teacher_spec):
    model = distil(teacher_spec(), ["neck"])
    text = str(model.inheritance)
    assert "neck are the teacher's" in text
    assert "neck.lateral_convs.0.conv.weight ((32, 16, 1, 1), the teacher's (32, 32, 1, 1))" in text
    counts = len(model.inheritance.copied), len(model.inheritance.left)
    assert text.startswith(f"{counts[0]} of {sum(counts)} weights of neck")
    assert sum(counts) == len(model.student.neck.state_dict())


def test_loaded_weights_are_not_undone(teacher_spec):
    """MMEngine's order: init_weights, then load_from or resume."""
    model = distil(teacher_spec(), ["bbox_head"])
    model.init_weights()
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not equal(model, "bbox_head.atss_cls.weight")


def test_second_start_of_a_training_keeps_what_was_learnt(teacher_spec):
    """MMEngine's runner initialises at every ``train()``, and what is initialised already warns and stays."""
    model = distil(teacher_spec(), ["bbox_head"])
    model.init_weights()
    with torch.no_grad():
        model.bbox_head.atss_cls.weight.add_(1)
    learnt = model.bbox_head.atss_cls.weight.clone()
    model.init_weights()
    assert torch.equal(model.bbox_head.atss_cls.weight, learnt)


def test_copies_are_the_students_own(teacher_spec):
    model = distil(teacher_spec(), ["bbox_head"])
    with torch.no_grad():
        model.bbox_head.atss_cls.weight.add_(1)
    assert not equal(model, "bbox_head.atss_cls.weight")


def test_part_of_a_backbone_and_one_of_several_teachers(teacher_spec):
    teachers = dict(a=teacher_spec(seed=1), b=teacher_spec(small_paa(), seed=2))
    modules = dict(teacher="b", modules=["backbone.layer1"])
    model = distil(None, modules, teachers=teachers)
    own, taught = model.backbone.layer1.state_dict(), model.teachers["b"].model.backbone.layer1.state_dict()
    assert all(torch.equal(value, taught[name]) for name, value in own.items())
    assert len(model.inheritance.copied) == len(own)
    with pytest.raises(ConfigError, match="initialise_from_teacher: name its teacher"):
        distil(None, ["neck"], teachers=teachers)


def test_nothing_to_copy_and_unknown_modules_are_refused(teacher_spec):
    spec = teacher_spec()
    with pytest.raises(
        ConfigError, match=r"no weight of backbone.layer1 agrees .* \(8, 8, 3, 3\), the teacher's"
    ):
        distil(spec, ["backbone.layer1"])
    with pytest.raises(ConfigError, match="has no module 'nec'; nearest: neck"):
        distil(spec, ["nec"])
    for wrong in ([], 3, dict(teacher="a"), dict(modules=["neck"], model="a")):
        with pytest.raises(ConfigError, match="must be like"):
            wanted_modules(wrong)
    assert wanted_modules("neck") == (None, ("neck",))


def test_teacher_whose_weights_were_fused_is_refused(teacher_spec):
    """Its convolutions have swallowed their batch norms."""
    with pytest.raises(ConfigError, match="leave out fuse"):
        distil(dict(teacher_spec(small_paa()), speed=dict(fuse=True)), ["backbone.layer1"])


def test_count_of_batches_goes_with_the_statistics_it_counts():
    own, taught = nn.ModuleDict(dict(n=nn.BatchNorm2d(2))), nn.ModuleDict(dict(n=nn.BatchNorm2d(3)))
    with pytest.raises(ConfigError):
        find_inheritance(own, taught, ["n"])
    found = find_inheritance(own, nn.ModuleDict(dict(n=nn.BatchNorm2d(2))), ["n"])
    assert len(found.copied) == 5
    assert not found.left


def test_random_state_is_that_of_a_student_that_inherits_nothing(teacher_spec):
    """What is not inherited has the same initial weights with and without."""
    spec = teacher_spec()
    states = []
    for modules in (None, ["bbox_head"]):
        torch.manual_seed(0)
        model = distil(spec, modules)
        model.init_weights()
        states.append(model.state_dict())
    plain, heir = states
    assert all(torch.equal(plain[name], heir[name]) for name in plain if not name.startswith("bbox_head."))
    assert not torch.equal(plain["bbox_head.atss_cls.weight"], heir["bbox_head.atss_cls.weight"])
