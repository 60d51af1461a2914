"""Methods that take several teachers apart: what they bind to, what a step shows them, what a run of one costs."""

import copy

from lad.analysis.dry_run import wiring_of
from lad.errors import ConfigError, UnsupportedError
from lad.methods.base import Link, SeveralTeachersMethod

import pytest
import torch
from helpers import build, make_batch, save_checkpoint, small_paa
from mmdet.registry import MODELS
from torch import nn


@MODELS.register_module(force=True)
class ApartProbe(SeveralTeachersMethod):
    """The mean of a level of each teacher's neck; of teacher b its backbone's."""

    teacher_modules = ("neck",)
    compares_classes = False

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def bind_teachers(self, student, teachers):
        self.bound_to = {name: len(teacher.model.bbox_head.cls_convs) for name, teacher in teachers.items()}
        self.classes_of = {name: teacher.classes for name, teacher in teachers.items()}

    def modules_of_teacher(self, name):
        return ("backbone",) if name == "b" else self.teacher_modules

    def links_of_teacher(self, name):
        return [Link("neck[0]", f"{self.modules_of_teacher(name)[0]}[0]")]

    def losses(self, step):
        assert step.teacher is None
        return {
            f"loss_{name}": self.factor * view.outputs[self.modules_of_teacher(name)[0]][0].mean()
            for name, view in step.teachers.items()
        }


def distil(teachers, *methods, **options):
    config = dict(type="DistillationDetector", methods=list(methods), **options)
    model = MODELS.build(dict(dict(student=small_paa(), teachers=teachers), **config))
    return model.train()


@pytest.fixture
def three(teacher_spec):
    """Teachers of other weights that know other classes."""
    known = dict(a=("x", "y", "z"), b=("y", "z", "w"), c=("z", "x", "y"))
    return {
        name: teacher_spec(seed=seed, dataset_meta=dict(classes=classes))
        for seed, (name, classes) in enumerate(known.items(), 1)
    }


def means_of(model, batch):
    read = dict(a="neck", b="backbone", c="neck")
    return {
        name: teacher.run(*batch, [read[name]])[read[name]][0].mean()
        for name, teacher in model.teachers.items()
    }


def test_method_gets_each_teacher_by_name_with_classes_of_its_own(three):
    model = distil(three, dict(type="ApartProbe", taught_by=["c", "a"]))
    [method] = model.methods
    assert method.classes_of == dict(c=("z", "x", "y"), a=("x", "y", "z"))
    assert model.teacher_of("ApartProbe") is None
    assert model.taught_by("ApartProbe") == "c+a"
    assert set(model.loss(*make_batch((1, 1)))) >= {"c+a.loss_c", "c+a.loss_a"}


def test_step_has_a_view_of_each_teacher_and_all_frozen_ones_teach_by_default(three):
    batch = make_batch((2, 1))
    model = distil(three, dict(type="ApartProbe"))
    losses = model.loss(*copy.deepcopy(batch))
    for name, mean in means_of(model, batch).items():
        torch.testing.assert_close(losses[f"loss_{name}"], mean)
    assert len({value.item() for value in means_of(model, batch).values()}) == 3


@pytest.mark.parametrize("count", [1, 2])
def test_one_name_or_several_are_a_mapping_too(three, count):
    names = ["a", "b"][:count]
    model = distil(three, dict(type="ApartProbe", taught_by=names[0] if count == 1 else names))
    [method] = model.methods
    assert list(method.bound_to) == names


def test_each_teacher_runs_once_a_step_however_many_methods_read_it(three):
    model = distil(
        three,
        dict(type="ApartProbe", name="first", taught_by=["a", "b"]),
        dict(type="ApartProbe", name="second", taught_by=["b", "a", "c"]),
        dict(type="HintDistillation", taught_by="a"),
    )
    calls = []
    for name, teacher in model.teachers.items():
        teacher.model.backbone.register_forward_hook(lambda *_, name=name: calls.append(name))
        teacher.model.neck.register_forward_hook(lambda *_, name=name: calls.append(f"{name}.neck"))
        teacher.model.bbox_head.register_forward_hook(lambda *_, name=name: calls.append("head"))
    model.loss(*make_batch((1, 1)))
    assert sorted(calls) == ["a", "a.neck", "b", "c", "c.neck"]


def test_teachers_stay_hidden_and_trained_networks_can_be_among_them(three):
    model = distil(three, dict(type="ApartProbe"))
    assert set(model.state_dict()) == {*build(small_paa()).state_dict(), "distillation.ApartProbe.factor"}
    networks = dict(small=small_paa(), big=small_paa(base=16))
    model = distil(
        dict(a=three["a"], before=dict(snapshot_of="small", at="epoch")),
        dict(type="ApartProbe", learner="small", taught_by=["big", "a", "before"]),
        networks=networks,
        student=None,
    )
    losses = model.loss(*make_batch((1, 1)))
    terms = [losses[f"small.big+a+before.loss_{name}"] for name in ("big", "a", "before")]
    sum(terms).backward()
    assert model.distillation["ApartProbe"].factor.grad == pytest.approx(sum(t.item() for t in terms))
    assert all(p.grad is None for p in model.trained_networks["big"].parameters())


def test_dry_run_shows_a_row_for_each_teacher(three):
    rows = wiring_of(distil(three, dict(type="ApartProbe")))
    assert [(row.taught_by, row.teacher, row.teacher_shape) for row in rows] == [
        ("a", "neck[0]", "2x32x16x16"),
        ("b", "backbone[0]", "2x16x32x32"),
        ("c", "neck[0]", "2x32x16x16"),
    ]


def test_what_does_not_fit_is_refused(three):
    both = dict(type="ApartProbe", taught_by=["a", "b"])
    with pytest.raises(ConfigError, match="learns from each of its teachers by itself: leave out ensemble"):
        distil(three, dict(both, ensemble="average"))
    with pytest.raises(ConfigError, match=r"no teacher 'd'.*; there are a, b, c"):
        distil(three, dict(both, taught_by=["a", "d"]))
    with pytest.raises(ConfigError, match="each teacher once"):
        distil(three, dict(both, taught_by=["a", "a"]))
    with pytest.raises(UnsupportedError, match="'student' cannot learn from its own outputs"):
        distil(three, dict(both, taught_by=["a", "student"]))
    with pytest.raises(ConfigError, match=r"HintDistillation: several teachers .* go with ensemble"):
        distil(three, dict(type="HintDistillation", taught_by=["a", "b"]))


def test_only_teachers_read_in_a_way_of_their_own_need_the_modules(three, tmp_path):
    """b is read at its backbone alone, so that it needs no neck; a is not."""
    lone = small_paa(base=16)
    lone.neck = None
    lone.bbox_head.in_channels = 16
    spec = dict(lone, checkpoint=save_checkpoint(build(lone), tmp_path / "lone.pth"))
    distil(dict(three, b=spec), dict(type="ApartProbe", taught_by=["a", "b"]))
    with pytest.raises(ConfigError, match="PAA has no module 'neck'"):
        distil(dict(three, c=spec), dict(type="ApartProbe", taught_by=["a", "c"]))
