"""Networks that a config's ``model`` describes, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lad.base.config import detector_config, kind_of
from lad.errors import ConfigError, listed
from lad.networks.roles import STUDENT
from lad.networks.snapshot import is_snapshot

from mmengine.config import Config, ConfigDict

#: Types of models that describe several networks.
KINDS = ("DistillationDetector",)
#: The type of models that train backbone and neck of a detector, which they describe as a distillation its student.
PRETRAINING = "SelfSupervisedPretraining"


def is_distillation(model: Any) -> bool:
    """Whether a config's ``model`` carries several networks, rather than being a plain detector."""
    return kind_of(model) in KINDS


def describes_detectors(model: Any) -> bool:
    """Whether a config's ``model`` describes detectors in it, as a distillation and a pretraining do."""
    return kind_of(model) in (*KINDS, PRETRAINING)


def trained_specs(model: Mapping[str, Any]) -> dict[str, Any]:
    """The descriptions of a distillation config's trained networks, by name: config paths or dicts.

    Raises:
        ConfigError: there are none.
    """
    if model.get("networks") is not None:
        if not isinstance(model["networks"], Mapping):
            raise ConfigError(
                "model.networks must be a dict of networks by name, networks=dict(a=CONFIG, b=CONFIG)."
            )
        return dict(model["networks"])
    if model.get(STUDENT) is None:
        raise ConfigError(f"model: {kind_of(model)} needs student, or networks.")
    return {STUDENT: model[STUDENT]}


def trained_configs(model: Mapping[str, Any]) -> dict[str, ConfigDict]:
    """The plain model configs of a distillation config's trained networks, by name.

    Raises:
        ConfigError: there are none, or a description is none.
    """
    configs = {name: detector_config(spec, _role(name)) for name, spec in trained_specs(model).items()}
    if model.get("data_preprocessor") is not None:
        configs[deployed_name(model)].data_preprocessor = model["data_preprocessor"]
    return configs


def deployed_name(model: Mapping[str, Any]) -> str:
    """The name of a distillation config's deployed network.

    Raises:
        ConfigError: there is no such network.
    """
    names = list(trained_specs(model))
    deploy = model.get("deploy") or next(iter(names), None)
    if deploy not in names:
        raise ConfigError(f"model.deploy={deploy!r} is no network; there are {listed(names, 5) or 'none'}.")
    return deploy


def check_layer_decay(cfg: Config) -> None:
    """Refuse learning rates that decay layer by layer where several networks are trained.

    Optimizer constructors find the layers by the names of the deployed network's weights: the backbones of the others
    would be trained as heads are. Exits are heads, and are trained as such.

    Args:
        cfg: Config of a training.

    Raises:
        ConfigError: names the setting.
    """
    paramwise = (cfg.get("optim_wrapper") or {}).get("paramwise_cfg") or {}
    decays = [key for key in paramwise if key.endswith("decay_rate")]
    model = cfg.get("model") or {}
    if decays and describes_detectors(model) and len(trained_specs(model)) > 1:
        raise ConfigError(
            f"optim_wrapper.paramwise_cfg.{decays[0]}: learning rates that decay layer by layer would reach "
            f"{deployed_name(model)!r} alone, as the layers of the other networks have other names: leave out "
            "constructor and paramwise_cfg, or train the networks one by one."
        )


def with_networks(
    model: Mapping[str, Any],
    trained: Callable[[Any, str], Any] = lambda spec, role: spec,
    frozen: Callable[[Any, str], Any] = lambda spec, role: spec,
) -> dict[str, Any]:
    """A copy of a distillation config whose networks are replaced by what functions make of them.

    Args:
        model: The config; what is missing or malformed stays as it is, for the detector to refuse.
        trained: Called with the description of a trained network and its role.
        frozen: Likewise for a frozen teacher; snapshots are no networks of their own and stay.
    """
    model = dict(model)
    if model.get(STUDENT) is not None:
        model[STUDENT] = trained(model[STUDENT], STUDENT)
    if isinstance(model.get("networks"), Mapping):
        model["networks"] = {name: trained(spec, _role(name)) for name, spec in model["networks"].items()}
    if isinstance(model.get("teacher"), dict):
        model["teacher"] = frozen(model["teacher"], "teacher")
    if isinstance(model.get("teachers"), Mapping):
        model["teachers"] = {
            name: frozen(spec, name) if isinstance(spec, dict) and not is_snapshot(spec) else spec
            for name, spec in model["teachers"].items()
        }
    return model


def _role(name: str) -> str:
    """The role of a trained network, for messages."""
    return STUDENT if name == STUDENT else f"network {name}"
