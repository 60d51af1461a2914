"""Names of parameters and buffers as seen from outside: the deployed network's plain, all others under a prefix.

====================================  ==============================================
inside                                outside (checkpoints, optimizer constructors)
====================================  ==============================================
``student.KEY``                       ``KEY``
``peers.NETWORK.KEY``                 ``distillation.networks.NETWORK.KEY``
``exits.NETWORK.EXIT.KEY``            ``distillation.exits.NETWORK.EXIT.KEY``
``distillation.METHOD.KEY``           ``distillation.METHOD.KEY``
====================================  ==============================================

The projections of a pretraining without labels are under ``distillation.projection.NETWORK.``. Snapshots, which are
hidden teachers, are saved under ``distillation.snapshots.NAME.KEY``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

DEPLOYED = "student."
DISTILLATION = "distillation."
NETWORKS = "distillation.networks."
EXITS = "distillation.exits."
SNAPSHOTS = "distillation.snapshots."
#: Of a pretraining without labels, which alone has them.
PROJECTIONS = "distillation.projection."
#: What such a pretraining trains of a detector.
PRETRAINED = ("backbone.", "neck.")
#: What no method may be called: its adapters are saved beside them.
RESERVED = ("networks", "exits", "snapshots", "projection")
_PREFIXES = ((DEPLOYED, ""), ("peers.", NETWORKS), ("exits.", EXITS))


def outside_name(name: str) -> str:
    """The name under which a parameter or buffer is known outside of the detector."""
    for inside, outside in _PREFIXES:
        if name.startswith(inside):
            return outside + name.removeprefix(inside)
    return name


def inside_name(name: str, keeps_prefix: bool = True) -> str:
    """The name inside of the detector of what is called ``name`` outside.

    Args:
        name: Of a parameter or buffer.
        keeps_prefix: Whether a name that begins with ``student.`` is one of the inside already, as MMDetection's
            ``SyncNormHook``, which goes by ``named_modules``, writes it.
    """
    if name.startswith(NETWORKS):
        return "peers." + name.removeprefix(NETWORKS)
    if name.startswith(EXITS):
        return "exits." + name.removeprefix(EXITS)
    if name.startswith(DISTILLATION) or (keeps_prefix and name.startswith((DEPLOYED, "peers.", "exits."))):
        return name
    return DEPLOYED + name


def network_state(state: Mapping[str, Tensor], name: str, deploy: str) -> dict[str, Tensor]:
    """One trained network's part of a detector's state dict, under the keys of a plain detector.

    Args:
        state: State dict of the detector, or of its checkpoint.
        name: Name of the network.
        deploy: Name of the deployed network.
    """
    if name == deploy:
        return {key: value for key, value in state.items() if not key.startswith(DISTILLATION)}
    prefix = f"{NETWORKS}{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
