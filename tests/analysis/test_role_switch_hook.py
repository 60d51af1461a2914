"""The hook that shows which network taught what share of the objects."""

from types import SimpleNamespace

from lad.analysis.hooks import RoleSwitchHook
from lad.errors import ConfigError

import pytest
from helpers import co_learning, small_paa
from mmdet.registry import MODELS
from mmengine.logging import MessageHub


class Runner(SimpleNamespace):
    """What the hook needs of a runner; what it logs."""

    def __init__(self, model, work_dir):
        self.scalars = []
        super().__init__(
            model=model,
            work_dir=work_dir,
            iter=0,
            visualizer=SimpleNamespace(add_scalars=lambda means, step: self.scalars.append((step, means))),
        )


@pytest.fixture
def hub(monkeypatch):
    hub = MessageHub("role switch")
    monkeypatch.setattr(MessageHub, "get_current_instance", classmethod(lambda cls: hub))
    return hub


def sharing(**groups):
    """Networks that share their labels with those of their group."""
    networks = {name: small_paa() for names in groups.values() for name in names}
    config = co_learning(networks, dict(type="StdMeanSwitch", per="gt"))
    [method] = config["methods"]
    config["methods"] = [dict(method, name=name, among=list(names)) for name, names in groups.items()]
    return MODELS.build(config)


def train(hook, runner, hub, *shares):
    hook.before_train(runner)
    for runner.iter, each in enumerate(shares):
        for name, value in each.items():
            hub.update_scalar(f"train/{name}.share", value)
        hook.after_train_iter(runner, runner.iter)
    hook.after_train(runner)


def test_mean_share_of_each_network_since_the_last_time_is_shown(hub, tmp_path):
    runner = Runner(sharing(only="ab"), tmp_path)
    shares = [dict(a=a, b=1 - a) for a in (1.0, 0.5, 0.25, 0.75)]
    train(RoleSwitchHook(interval=2), runner, hub, *shares)
    assert runner.scalars == [
        (2, {"role_switch/a": 0.75, "role_switch/b": 0.25}),
        (4, {"role_switch/a": 0.5, "role_switch/b": 0.5}),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["role_switch.png"]


def test_networks_of_every_method_are_shown(hub, tmp_path):
    """In the second iteration the networks of the second method have no objects."""
    runner = Runner(sharing(first="ab", second="cd"), tmp_path)
    shares = [dict(a=1.0, b=0.0, c=0.25, d=0.75), dict(a=0.5, b=0.5), dict(a=0.5, b=0.5, c=1.0, d=0.0)]
    train(RoleSwitchHook(interval=1), runner, hub, *shares)
    assert runner.scalars == [
        (1, {f"role_switch/{name}": value for name, value in shares[0].items()}),
        (2, {"role_switch/a": 0.5, "role_switch/b": 0.5}),
        (3, {f"role_switch/{name}": value for name, value in shares[2].items()}),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "role_switch_first.png",
        "role_switch_second.png",
    ]


def test_models_without_roles_are_refused(hub, tmp_path):
    runner = Runner(MODELS.build(small_paa()), tmp_path)
    with pytest.raises(ConfigError, match="take the hook out of custom_hooks"):
        RoleSwitchHook().before_train(runner)
