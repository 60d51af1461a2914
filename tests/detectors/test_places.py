"""Schedules and windows of methods have their places in a run."""

from types import SimpleNamespace

from lad.detectors.places import check_places, scheduled
from lad.engine.hooks.phases import PhaseHook
from lad.errors import ConfigError

import pytest
from helpers import distillation_of, small_paa
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

HINT = dict(type="HintDistillation")
COUNTING_EPOCHS = {
    "hint: active": dict(active=dict(epochs=(1, None))),
    "hint: factor": dict(factor=dict(type="linear", start=1.0, end=0.0, epochs=2)),
    "hint: loss_weight": dict(gamma=dict(type="cosine", end=1.0, epochs=2)),
}


def methods(folder, *configs):
    return distillation_of(folder, small_paa(), small_paa(base=16), *configs).bound


def run(loop, model, max_epochs=3):
    """A run of 30 iterations, and the warnings in its log."""
    warnings = []
    runner = SimpleNamespace(
        train_loop=object.__new__(loop),
        model=model,
        max_epochs=max_epochs,
        max_iters=30,
        logger=SimpleNamespace(warning=warnings.append),
    )
    return runner, warnings


@pytest.mark.parametrize("place", COUNTING_EPOCHS)
def test_epochs_are_refused_in_a_run_that_counts_iterations(place, tmp_path):
    """Its epoch stays 0: the method would teach never, or for ever."""
    bound = methods(tmp_path, dict(HINT, name="hint", **COUNTING_EPOCHS[place]))
    assert check_places(bound, 3, 30) == []
    with pytest.raises(
        ConfigError, match=f"^{place} counts epochs, and this run counts iterations"
    ) as caught:
        check_places(bound, None, 30)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        dict(active=dict(iters=(10, None))),
        dict(active=dict(part=(0.5, 1))),
        dict(factor=dict(type="linear", start=1.0, end=0.0)),
        dict(factor=dict(type="loss_ratio", ratio=dict(type="linear", start=1.0, end=0.0, iters=3))),
        {},
    ],
    ids=str,
)
def test_iterations_and_parts_are_fine_in_any_run(setting, tmp_path):
    bound = methods(tmp_path, dict(HINT, **setting))
    assert check_places(bound, 3, 30) == check_places(bound, None, 30) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(active=dict(epochs=(3, None))), "hint: active begins with epochs 3, and the run has 3"),
        (dict(active=dict(iters=(30, 40))), "hint: active begins with iters 30, and the run has 30"),
        (
            dict(factor=dict(type="linear", start=1.0, end=0.0, epochs=2, begin=5)),
            "hint: factor begins with epochs 5, and the run has 3",
        ),
    ],
)
def test_what_never_begins_is_a_warning(setting, message, tmp_path):
    """A short run of a config that is made for a long one is no mistake."""
    (warning,) = check_places(methods(tmp_path, dict(HINT, name="hint", **setting)), 3, 30)
    assert warning.startswith(message)


def test_hook_checks_the_run(tmp_path):
    method = dict(HINT, active=dict(epochs=(2, None)))
    model = distillation_of(tmp_path, small_paa(), small_paa(base=16), method)
    for epochs, count in ((3, 0), (2, 1)):
        runner, warnings = run(EpochBasedTrainLoop, model, epochs)
        PhaseHook().before_train(runner)
        assert len(warnings) == count
    with pytest.raises(ConfigError, match="active counts epochs"):
        PhaseHook().before_train(run(IterBasedTrainLoop, model)[0])


def test_schedules_of_each_network_are_found(tmp_path):
    bound = methods(tmp_path, HINT)
    one = next(iter(bound.values()))
    one.method.weights = dict(a=one.factor, b=3)
    assert [setting.split(": ")[1] for setting, _ in scheduled(bound)][:2] == ["active", "factor"]
    assert sum(setting.endswith("weights") for setting, _ in scheduled(bound)) == 1
