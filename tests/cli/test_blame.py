"""An error in a step names the setting whose value stands in the expression that failed, or stays a traceback."""

import logging
from types import SimpleNamespace

from lad.cli.blame import settings_to_blame
from lad.cli.messages import one_line_errors, run_errors
from lad.errors import ConfigError, DataError

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn


class Loss(nn.Module):
    def __init__(self, loss_weight=1.0, beta=1.0, sizes=(1, 2), reduction="mean", **options):
        super().__init__()
        self.loss_weight, self.beta, self.sizes, self.reduction = loss_weight, beta, sizes, reduction
        self.options = options

    def forward(self, values):
        return self.loss_weight * values.sum()

    def compare(self, values):
        return values > self.beta

    def loop(self, values):
        return [values * size for size in self.sizes]

    def renamed(self, values):
        limit = self.beta
        return values.clamp(min=limit)

    def passed_on(self, values):
        return smooth(values, **self.options)

    def keyed(self, values):
        return values * self.options["gain"]

    def chosen(self, values):
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"no reduction {self.reduction!r}")
        return values

    def defect(self, values):
        return values.no_such_method(self.reduction)

    def other_defect(self, values):
        return len(self.loss_weight * 2) + self.beta


def smooth(values, gain=1.0):
    return values * (gain + 1.0)


def error_of(method, **settings):
    loss = Loss(**settings)
    with pytest.raises((TypeError, ValueError, AttributeError, KeyError)) as caught:
        getattr(loss, method)(torch.ones(2))
    return caught.value


BLAMED = [
    ("forward", dict(loss_weight="a"), "loss_weight"),
    ("forward", dict(loss_weight=None), "loss_weight"),
    ("forward", dict(loss_weight=dict(a=1)), "loss_weight"),
    ("compare", dict(beta="0.5"), "beta"),
    ("compare", dict(beta=[None]), "beta"),
    ("loop", dict(sizes=7), "sizes"),
    ("loop", dict(sizes=2.5), "sizes"),
    ("renamed", dict(beta="low"), "beta"),
    ("passed_on", dict(gain="b"), "gain"),
    ("keyed", dict(gain=dict(b=2)), "gain"),
    ("chosen", dict(reduction="average"), "reduction"),
]


@pytest.mark.parametrize(("method", "settings", "name"), BLAMED)
def test_setting_in_the_expression_that_failed_is_to_blame(method, settings, name):
    config = dict(model=dict(heads=[dict(type="Head", loss=dict(type="Loss", **settings))], depth=18))
    blamed = settings_to_blame(error_of(method, **settings), config)
    assert [one.path for one in blamed] == [f"model.heads.0.loss.{name}"]


@pytest.mark.parametrize(
    ("method", "settings", "config"),
    [
        ("defect", {}, dict(reduction="mean", mode="str")),  # names no type of a value
        ("forward", dict(loss_weight="a"), dict(loss_weight=1.0, name="b")),  # the config has another value
        ("other_defect", {}, dict(loss_weight=1.0, other=None)),  # a float has no length, and no text is near
    ],
)
def test_nothing_is_blamed_without_evidence(method, settings, config):
    blamed = settings_to_blame(error_of(method, **settings), dict(model=config))
    assert all(one.name == "loss_weight" and one.value == 1.0 for one in blamed)
    assert method == "other_defect" or not blamed


def test_error_that_a_hook_raised_anew_is_traced_to_the_hook():
    def call_hook(hook):
        try:
            assert hook.interval > 0
        except TypeError as error:
            raise TypeError(f"{error} in the hook") from None

    with pytest.raises(TypeError) as caught:
        call_hook(SimpleNamespace(interval="ten"))
    blamed = settings_to_blame(caught.value, dict(default_hooks=dict(logger=dict(interval="ten"), other=3)))
    assert [one.path for one in blamed] == ["default_hooks.logger.interval"]


class Doubling(torch.utils.data.Dataset):
    def __init__(self, factor):
        self.factor = factor

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return (index + 1.0) * self.factor


@pytest.mark.parametrize("factor", ["a", None])
def test_error_of_a_process_that_loads_data_is_traced_by_the_source(factor):
    loader = torch.utils.data.DataLoader(Doubling(factor), num_workers=1)
    with pytest.raises(TypeError) as caught:
        next(iter(loader))
    config = dict(train_dataloader=dict(dataset=dict(pipeline=[dict(type="X", factor=factor, size=3)])))
    (blamed,) = settings_to_blame(caught.value, config)
    assert blamed.path == "train_dataloader.dataset.pipeline.0.factor"


@pytest.fixture
def runner(tmp_path):
    logger = logging.Logger("run")
    logger.addHandler(logging.FileHandler(tmp_path / "run.log"))
    logger.addHandler(logging.StreamHandler())
    yield SimpleNamespace(cfg=Config(dict(model=dict(loss=dict(loss_weight="a")))), logger=logger)
    for handler in logger.handlers:
        handler.close()


def test_line_names_setting_value_error_and_place_and_the_log_file_has_the_traceback(
    runner, tmp_path, capsys
):
    with pytest.raises(SystemExit) as stop, one_line_errors(), run_errors(runner):
        Loss(loss_weight="a")(torch.ones(2))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model.loss.loss_weight: str 'a' cannot be used: TypeError: ")
    assert "test_blame.py" in line
    assert "in forward" in line
    assert "--cfg-options model.loss.loss_weight=" in line
    logged = (tmp_path / "run.log").read_text()
    assert "Traceback (most recent call last)" in logged
    assert "self.loss_weight * values.sum()" in logged


def test_traceback_is_shown_to_those_who_ask(runner, monkeypatch):
    monkeypatch.setenv("LAD_TRACEBACK", "1")
    with pytest.raises(ConfigError) as caught, one_line_errors(), run_errors(runner):
        Loss(loss_weight="a")(torch.ones(2))
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("method", ["defect"])
def test_error_without_evidence_keeps_its_traceback(runner, tmp_path, method):
    with pytest.raises(AttributeError, match="no_such_method"), one_line_errors(), run_errors(runner):
        getattr(Loss(), method)(torch.ones(2))
    assert (tmp_path / "run.log").read_text() == ""


def test_error_with_a_line_of_its_own_keeps_it(runner):
    with pytest.raises(DataError, match="mine"), run_errors(runner):
        raise DataError("mine")


@pytest.mark.parametrize("base", [0, "sixteen", [16]])
def test_what_mmengine_builds_past_its_registries_is_a_line(runner, base):
    started = SimpleNamespace(
        world_size=1,
        train_dataloader=dict(batch_size=2),
        _train_dataloader=dict(batch_size=2),
        logger=runner.logger,
    )
    with pytest.raises(ConfigError, match="nothing can be built from the config: ") as caught:
        scale(started, base, runner)
    assert isinstance(caught.value.__cause__, (ArithmeticError, TypeError, ValueError))


def scale(started, base, runner):
    with run_errors(runner):
        Runner.scale_lr(started, None, dict(enable=True, base_batch_size=base))
