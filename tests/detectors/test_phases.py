"""Pretraining and task: who learns in which, and who stands still."""

import copy

from lad.base.phases import Phase, Pretraining, reaching
from lad.base.progress import Progress
from lad.errors import ConfigError, UnsupportedError

import phase_methods  # noqa: F401  -- registers the methods
import pytest
import torch
from helpers import at, build, fake_cuda, make_batch, small_paa
from mmdet.registry import MODELS
from torch import nn

TASK = 10**9


def distil(spec, *methods, **settings):
    model = MODELS.build(
        dict(
            type="DistillationDetector", student=small_paa(), teacher=spec, methods=list(methods), **settings
        )
    )
    model.student.load_state_dict(build(small_paa()).state_dict())
    return model.train()


BOUNDARY = dict(type="BoundaryProbe", pretrain=dict(iters=2))
FACTOR = dict(type="FactorProbe", pretrain=dict(iters=2))


def train(model, optimizer, iterations):
    """As the runner and PhaseHook do it."""
    seen = []
    for iteration in iterations:
        at(model, iteration, 0)
        optimizer.zero_grad()
        losses = model.loss(*make_batch(seed=iteration))
        total, _ = model.parse_losses(losses)
        total.backward()
        model.phase.drop_gradients()
        optimizer.step()
        seen.append(set(losses))
    return seen


def changed(model, before):
    """Names of parameters and buffers that are others than before."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_each_phase_moves_what_learns_in_it_and_nothing_else(teacher_spec, optimizer):
    """Momentum and weight decay included: both optimizers would go on moving what has a gradient of zeros."""
    more = dict(momentum=0.9) if optimizer is torch.optim.SGD else {}
    model = distil(teacher_spec(), BOUNDARY, FACTOR)
    made = optimizer(model.parameters(), lr=1e-3, weight_decay=0.1, **more)
    start = snapshot(model)
    assert train(model, made, range(2)) == [{"loss_boundary", "loss_paraphrase"}] * 2
    pretrained = changed(model, start)
    starts = ("backbone.", "distillation.BoundaryProbe.connector.", "distillation.FactorProbe.paraphraser.")
    assert {next((s for s in starts if name.startswith(s)), name) for name in pretrained} == set(starts)
    middle = snapshot(model)
    seen = train(model, made, range(2, 4))
    assert all("loss_factor" in names and "loss_cls" in names for names in seen)
    assert not any("boundary" in name or "paraphrase" in name for names in seen for name in names)
    trained = changed(model, middle)
    assert not {name for name in trained if name.startswith(starts[1:])}
    assert {"backbone.conv1.weight", "neck.lateral_convs.0.conv.weight"} <= trained
    assert {"bbox_head.atss_cls.weight", "distillation.FactorProbe.translator.weight"} <= trained


def test_every_parameter_that_learns_gets_a_gradient_and_no_other(teacher_spec):
    model = distil(teacher_spec(), BOUNDARY, FACTOR)
    for iteration in (0, TASK):
        at(model, iteration, 0)
        model.zero_grad()
        model.parse_losses(model.loss(*make_batch()))[0].backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        names = {id(p): name for name, p in model.named_parameters()}
        assert with_gradient == {names[id(p)] for p in model.phase.learning}
        assert not with_gradient & {names[id(p)] for p in model.phase.resting}
        # All are trainable again: the optimizer and DDP know them from the beginning.
        assert all(p.requires_grad for p in model.parameters())


def test_student_does_not_run_where_nothing_of_it_learns(teacher_spec):
    model = distil(teacher_spec(), FACTOR)
    calls = []
    model.student.backbone.register_forward_hook(lambda *_: calls.append(1))
    at(model, 0)
    before = snapshot(model.student)
    model.loss(*make_batch())
    assert not calls
    assert not changed(model.student, before)
    at(model, TASK, 0)
    model.loss(*make_batch())
    assert calls == [1]


def test_batch_norm_rests_before_what_learns_and_flags_are_put_back(teacher_spec):
    """Only layer4 learns: the statistics of the layers before it stand still though they run."""
    model = distil(teacher_spec(), dict(BOUNDARY, student=("backbone.layer4",)))
    flags = [module.training for module in model.modules()]
    before = snapshot(model)
    at(model, 0)
    model.parse_losses(model.loss(*make_batch()))[0].backward()
    assert [module.training for module in model.modules()] == flags
    moved = {name for name in changed(model, before) if "running" in name}
    assert moved
    assert all(name.startswith(("backbone.layer4.", "distillation.")) for name in moved)
    assert model.backbone.layer1[0].conv1.weight.grad is None


def test_flags_are_put_back_after_an_error(teacher_spec):
    model = distil(teacher_spec(), FACTOR)
    at(model, 0)
    seen = []

    def fail():
        with model.phase.rest():
            seen.extend(p.requires_grad for p in model.student.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen
    assert not any(seen)
    assert all(p.requires_grad for p in model.student.parameters())
    assert all(module.training for module in model.modules())


def test_phase_is_a_function_of_the_iteration_or_the_epoch():
    by_iteration, by_epoch = Pretraining(iters=3), Pretraining(epochs=2)
    assert [by_iteration.covers(i, 9) for i in range(5)] == [True, True, True, False, False]
    assert [by_epoch.covers(99, e) for e in range(4)] == [True, True, False, False]
    assert (by_iteration.length, Pretraining(epochs=1).length) == ("3 iterations", "1 epoch")


def test_task_alone_is_the_task_of_a_method_that_never_pretrains(teacher_spec):
    """Control: the phases change nothing but who rests."""
    spec = teacher_spec()
    model = distil(spec, dict(type="FactorProbe", pretrain=dict(iters=1)))
    at(model, TASK, 0)
    plain = distil(spec, dict(type="FactorProbe"))
    plain.distillation.load_state_dict(model.distillation.state_dict())
    plain.distillation.FactorProbe.paraphraser.eval()
    expected, losses = plain.loss(*make_batch()), model.loss(*make_batch())
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=0, atol=0)


def test_detector_whose_optimizer_would_move_resting_weights_says_so(teacher_spec):
    with pytest.raises(
        ConfigError, match=r"nothing keeps resting parameters out of the optimizer: .*PhaseHook"
    ):
        distil(teacher_spec(), FACTOR).loss(*make_batch())


def test_without_pretraining_there_is_no_phase(teacher_spec):
    model = distil(teacher_spec(), dict(type="FactorProbe"))
    model.enter_phase(Progress())
    assert model.phase is None
    assert "loss_factor" in model.loss(*make_batch())


def test_lengths_must_agree_and_modules_exist(teacher_spec):
    spec = teacher_spec()
    with pytest.raises(ConfigError, match="BoundaryProbe 2 iterations and FactorProbe 3 iterations"):
        distil(spec, BOUNDARY, dict(FACTOR, pretrain=dict(iters=3)))
    with pytest.raises(ConfigError, match=r"no module 'backbone.layer9'; nearest: backbone.layer"):
        distil(spec, dict(BOUNDARY, student=("backbone.layer9",)))
    with pytest.raises(UnsupportedError, match="'data_preprocessor' cannot be pretrained"):
        distil(spec, dict(BOUNDARY, student=("data_preprocessor",)))


@pytest.mark.parametrize(
    "pretrain", [3, {}, dict(iters=1, epochs=1), dict(steps=1), dict(iters=0), dict(epochs=1.5)]
)
def test_pretrain_that_is_no_length_is_refused(pretrain):
    with pytest.raises(ConfigError, match="Probe: pretrain"):
        Pretraining.from_config(pretrain, "Probe")


def test_copies_of_a_detector_have_phases_of_their_own(teacher_spec):
    model = distil(teacher_spec(), FACTOR)
    at(model, 0)
    twin = copy.deepcopy(model)
    assert {id(p) for p in twin.phase.learning} <= {id(p) for p in twin.parameters()}
    assert not {id(p) for p in twin.phase.learning} & {id(p) for p in model.parameters()}


def test_reaching_adds_zeros_to_what_learns_and_nothing_to_what_rests():
    """d(2 a)/da = 2 for the used one, 0 for the other that learns, no gradient for the one that rests."""
    used, unused, resting = (nn.Parameter(torch.ones(3)) for _ in range(3))
    loss = reaching(2 * used.sum(), [used, unused], [resting])
    assert loss == 6
    loss.backward()
    assert used.grad.tolist() == [2, 2, 2]
    assert unused.grad.tolist() == [0, 0, 0]
    assert resting.grad is None


def test_module_that_holds_a_learning_one_keeps_its_flag_and_shared_weights_learn():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Linear(2, 2))
    model[1].weight = model[0][0].weight
    phase = Phase.of(model, True, set(model.modules()) - {model[0][0]})
    assert {id(p) for p in phase.learning} == {id(model[0][0].weight), id(model[0][0].bias)}
    with phase.rest():
        assert [module.training for module in model.modules()] == [True, True, True, False, False]


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda(), torch.device("cuda"):
        learning, resting = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        model = nn.Sequential(learning, resting)
        phase = Phase.of(model, True, resting.modules())
        with phase.rest():
            losses = dict(loss=model(torch.randn(4, 2)).sum())
        # The backward pass of a fake tensor asks for a real device.
        assert phase.reach_all(losses)["loss"].device.type == "cuda"
