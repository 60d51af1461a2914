"""Search for teachers whose weights or outputs are not finite, after a loss was not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lad.base.capture import Capture, Outputs
from lad.detectors.bound import BoundMethod
from lad.detectors.distillation import DistillationDetector
from lad.errors import listed
from lad.methods.base import JointMethod
from lad.networks.forward import dense_parts, frozen_mode, part_of, run_dense
from lad.networks.frozen import FrozenTeacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from torch import Tensor
from torch.utils._pytree import tree_leaves


@torch.no_grad()
def bad_teachers(model: BaseDetector, batch: Any) -> str:
    """Describe the teachers with weights that are not finite, or whose outputs for a batch are not; empty if none.

    The teachers run once more on the batch, as far as some method reads them: frozen ones and snapshots as in the step,
    trained ones (peers, exits) in eval mode, so that no statistics change.

    Args:
        model: A detector; a plain one has no teachers.
        batch: As the pipeline left it, before the data preprocessor.
    """
    if not isinstance(model, DistillationDetector):
        return ""
    read = _modules_read(model)
    # Weights alone can be told of any teacher; what its RoI head scores are the student's proposals.
    weights = {name: bad_weights(teacher.model) for name, teacher in model.teachers.items() if name in read}
    broken = [
        f"teacher {name!r} has weights that are not finite ({listed(names, 2)}): its checkpoint is damaged"
        for name, names in weights.items()
        if names
    ]
    if broken or not read or not isinstance(batch, Mapping):
        return "; ".join(broken)
    data = model.data_preprocessor(dict(batch), True)
    found = []
    for name, modules in read.items():
        outputs = _run(model, name, modules, data["inputs"], data["data_samples"])
        if place := first_bad_output(outputs, modules):
            found.append(
                f"teacher {name!r} gives values that are not finite ({place}): look at its checkpoint and at its "
                "images' normalisation; in mixed precision, train without it"
            )
    return "; ".join(found)


def bad_weights(model: BaseDetector) -> list[str]:
    """Names of the parameters and buffers that contain NaN or infinity."""
    return [name for name, value in model.state_dict().items() if not _is_finite(value)]


def first_bad_output(outputs: Outputs, modules: Iterable[str]) -> str:
    """Name the first output of modules with NaN or infinity, such as ``'bbox_head output 1'``; empty if there is none.

    Args:
        outputs: Their outputs.
        modules: Their names.
    """
    for module in modules:
        calls = outputs.calls(module)
        for number, output in enumerate(calls):
            call = f" in call {number}" if len(calls) > 1 else ""
            parts = output if isinstance(output, (tuple, list)) else [output]
            for index, part in enumerate(parts):
                if not _is_finite(part):
                    return f"{module} output {index}{call}" if len(parts) > 1 else f"{module}{call}"
    return ""


def _is_finite(value: Any) -> bool:
    """Whether all floating-point tensors in any nesting are finite."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _modules_read(model: DistillationDetector) -> dict[str, tuple[str, ...]]:
    """The modules of each teacher that methods read in the current phase, by its name."""
    is_pretraining = model.phase is not None and model.phase.is_pretraining
    read: dict[str, dict[str, None]] = {}
    for one in model.bound.values():
        for name, modules in _taught_by(one, is_pretraining).items():
            read.setdefault(name, {}).update(dict.fromkeys(modules))
    return {name: tuple(modules) for name, modules in read.items() if modules}


def _taught_by(one: BoundMethod, is_pretraining: bool) -> dict[str, tuple[str, ...]]:
    """The teachers of one method by name, and their modules that it reads; of a joint method, all its networks."""
    if one.route is not None:
        return {name: one.modules_of_teacher(name, is_pretraining) for name in one.route.names}
    if isinstance(one.method, JointMethod):
        return {name: tuple(one.method.modules_of(name)) for name in one.learners}
    return {}


def _run(
    model: DistillationDetector, name: str, modules: tuple[str, ...], inputs: Tensor, samples: SampleList
) -> Outputs:
    """Outputs of one teacher's modules for preprocessed images."""
    teacher: FrozenTeacher | None = model.teachers.get(name)
    if teacher is not None:
        return teacher.run(inputs, samples, modules)
    network = model.learners[name]
    images = model.network_inputs(name.partition(".")[0], inputs, samples)
    roots = set(map(part_of, modules))
    with frozen_mode(network), Capture(network, modules).record() as outputs:
        if roots <= dense_parts(network):
            run_dense(network, images, roots, samples)
        else:
            network._forward(images, samples)
    return outputs
