"""Trained networks, teachers and methods of any detector, for hooks, checks and reports.

A plain MMDetection detector is one trained network without a name.
"""

from __future__ import annotations

from lad.detectors.bound import BoundMethod
from lad.detectors.distillation import DistillationDetector
from lad.detectors.networks import NetworksDetector
from lad.networks.exits import Exit
from lad.networks.frozen import FrozenTeacher

from mmdet.models.detectors import BaseDetector
from mmdet.structures import OptSampleList
from torch import Tensor, nn


def trained_networks(model: BaseDetector) -> dict[str, BaseDetector]:
    """The trained networks of a detector by name; the detector itself, without a name, if it is a plain one."""
    return model.trained_networks if isinstance(model, NetworksDetector) else {"": model}


def deployed_network(model: BaseDetector) -> BaseDetector:
    """The deployed network of a detector; the detector itself if it is a plain one."""
    return model.student if isinstance(model, NetworksDetector) else model


def network_inputs(model: BaseDetector, name: str, inputs: Tensor, data_samples: OptSampleList) -> Tensor:
    """Images as one of :func:`trained_networks` needs them; see :meth:`NetworksDetector.network_inputs`."""
    return model.network_inputs(name, inputs, data_samples) if isinstance(model, NetworksDetector) else inputs


def exits_of(model: BaseDetector) -> dict[str, Exit]:
    """The exits of a detector's networks as ``'NETWORK.EXIT'``; none if it is a plain one."""
    if not isinstance(model, NetworksDetector):
        return {}
    return {name: own for name, own in model.learners.items() if isinstance(own, Exit)}


def frozen_teachers(model: BaseDetector) -> dict[str, FrozenTeacher]:
    """The frozen teachers and snapshots of a detector by name; none if it is a plain one."""
    return model.teachers if isinstance(model, NetworksDetector) else {}


def bound_methods(model: BaseDetector) -> dict[str, BoundMethod]:
    """The distillation methods of a detector by name, with their networks; none if it is a plain one."""
    return model.bound if isinstance(model, DistillationDetector) else {}


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of the methods' adapters, which are trained and not deployed."""
    return [parameter for one in bound_methods(model).values() for parameter in one.method.parameters()]


def teacher_label(model: BaseDetector, method: str) -> str:
    """The name of a method's teacher for reports; empty for the only frozen teacher, and for joint methods."""
    return model.taught_by(method) if isinstance(model, DistillationDetector) else ""
