"""Resolve the names in a method's config: which network or exit it trains, and what it is called itself."""

from __future__ import annotations

from collections.abc import Mapping

from lad.detectors.bound import BoundMethod, Candidates
from lad.errors import ConfigError, listed, nearest
from lad.methods.base import DistillationMethod
from lad.networks.routes import TeacherRoute

from mmdet.registry import MODELS


def of_each_exit(config: dict, candidates: Candidates) -> list[dict]:
    """The configs of a method that trains exits, one for each exit of its network; other methods' as they are."""
    if not trains_exits(config["type"]):
        return [config]
    network = config.get("learner", candidates.deploy)
    owner = config["type"] if isinstance(config["type"], str) else config["type"].__name__
    if network not in candidates.networks:
        # An exit; what is none is refused with the other names that do not exist.
        return [dict(config, taught_by=config.get("taught_by", str(network).partition(".")[0]))]
    exits = [name for name in candidates.learners if name.startswith(f"{network}.")]
    if not exits:
        raise ConfigError(
            f"{owner} trains exits, and {network!r} has none: add exits=dict({network}=dict(early=dict(levels=[1])))."
        )
    resolved = [dict(config, learner=name, taught_by=config.get("taught_by", network)) for name in exits]
    if len(exits) == 1:
        return resolved
    base = config.get("name") or owner
    return [dict(each, name=f"{base}_{each['learner'].replace('.', '_')}") for each in resolved]


def free_name(
    owner: str, learners: tuple[str, ...], route: TeacherRoute | None, others: Mapping[str, BoundMethod]
) -> str:
    """A method's name in the module tree: its type, and its networks' names where the type is taken already."""
    first = others.get(owner)
    if first is None or first.route is None or route is None:
        return owner
    if (first.learners, first.route.names) == (learners, route.names):
        return owner
    learner = () if first.learners == learners else learners
    return "_".join([owner, *learner, *route.names]).replace(".", "_")


def find_learner(config: dict, candidates: Candidates, owner: str) -> str:
    """The network or exit that a method trains, taken out of its config.

    Raises:
        ConfigError: there is none of this name.
    """
    learner = config.pop("learner", candidates.deploy)
    if not isinstance(learner, str) or learner not in candidates.learners:
        raise ConfigError(
            f"{owner}: learner names no trained network or exit {learner!r}"
            f"{nearest(str(learner), candidates.learners)}; there are {listed(candidates.learners, 5)}."
        )
    return learner


def find_among(config: dict, candidates: Candidates, owner: str) -> tuple[str, ...]:
    """The networks that a joint method trains, taken out of its config; in the order of the config's networks.

    Raises:
        ConfigError: there are no two such networks.
    """
    if wrong := {"learner", "taught_by", "ensemble"} & set(config):
        raise ConfigError(
            f"{owner} trains several networks together: it has among=[...] and no {sorted(wrong)[0]}."
        )
    names = config.pop("among", candidates.networks)
    known = isinstance(names, (list, tuple)) and all(name in candidates.networks for name in names)
    if not known or len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"{owner} needs two trained networks: model=dict(networks=dict(a=CONFIG, b=CONFIG), deploy='a', ...), and "
            f"among names two or more of them; got {list(names) if known else names!r} of "
            f"{listed(candidates.networks, 5)}."
        )
    return tuple(name for name in candidates.networks if name in names)


def trains_exits(kind: str | type) -> bool:
    """Whether a method of this type trains exits; False for what is no method."""
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(known, type) and issubclass(known, DistillationMethod) and known.trains_exits
