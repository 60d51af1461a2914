"""A detector taught by another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

from lad.capture import capture, find_module
from lad.config import detector_config
from lad.errors import ConfigError, UnsupportedError
from lad.methods.base import DistillationMethod, Step
from lad.teacher import DENSE_HEADS, build_teacher, run_dense
from lad.teacher_cache import take_fingerprints

import torch
from mmdet.models.detectors import BaseDetector, DetectionTransformer
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from mmengine.model import ModuleDict
from torch import Tensor, nn

STUDENT = "student."
DISTILLATION = "distillation."


@MODELS.register_module()
class DistillationDetector(BaseDetector):
    """A student that a frozen teacher teaches by any number of methods.

    To everything outside it is the student: its ``state_dict`` holds the student's keys without prefix (adapters
    of the methods under ``distillation.``), its attributes (``backbone``, ``bbox_head``, ...) and its
    predictions are the student's. The teacher is seen by nothing but the teacher code.

    Args:
        student: A config path, or a dict with ``config`` and overrides, or a model dict.
        teacher: Likewise, with the required key ``checkpoint`` (path or URL).
        methods: Configs of distillation methods. A method's ``name`` (default: its type) is its key under
            ``distillation.``.
        student_loss: Whether the student learns its own loss too. False: from the teacher alone, by the methods'
            losses; labels are then needed only where a method asks for them.
        data_preprocessor: Replaces the student's.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError, CheckpointError, UnsupportedError: what cannot work is refused here, before training.
    """

    def __init__(
        self,
        student: str | dict,
        teacher: dict,
        methods: Sequence[dict],
        student_loss: bool = True,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        config = detector_config(student, "student")
        if data_preprocessor is not None:
            config.data_preprocessor = data_preprocessor
        self.student = MODELS.build(config)
        self.data_preprocessor = self.student.data_preprocessor
        self.teacher = build_teacher(teacher, self.student.data_preprocessor)
        self.student_loss = student_loss
        dense = any(hasattr(self.student, name) for name in DENSE_HEADS)
        if not student_loss and (not dense or isinstance(self.student, DetectionTransformer)):
            raise UnsupportedError(
                f"student_loss=False needs a dense head ({', '.join(DENSE_HEADS)}), which "
                f"{type(self.student).__name__} has not."
            )
        self.distillation = ModuleDict()
        # Adapters draw their initial weights here; the student's own must not depend on which methods there are.
        with torch.random.fork_rng(devices=[]):
            for method in methods:
                self._add_method(dict(method))
        adds_losses = [type(method).losses is not DistillationMethod.losses for method in self.methods]
        if not student_loss and not any(adds_losses):
            raise ConfigError(
                "student_loss=False leaves nothing to train on: no method adds a loss of its own."
            )
        if not student_loss:
            self._check_without_labels()
        if any(method.needs_fingerprints for method in self.methods):
            self.data_preprocessor.register_forward_pre_hook(take_fingerprints, with_kwargs=True)
        self._register_state_dict_hook(_strip_student_prefix)

    def _add_method(self, config: dict) -> None:
        name = config.pop("name", config.get("type"))
        if name in self.distillation:
            raise ConfigError(f"two methods are called {name!r}: give each a name, dict(type=..., name=...).")
        method: DistillationMethod = MODELS.build(config)
        for other in self.methods:
            steers = type(method).steer is not DistillationMethod.steer
            if steers and type(other) is type(method):
                raise ConfigError(
                    f"a student has one {type(method).__name__}; take the second out of methods."
                )
            if method.loss_name is not None and other.loss_name == method.loss_name:
                raise ConfigError(
                    f"two methods call their loss {method.loss_name!r}: give one another loss_name."
                )
        method.bind(self.student, self.teacher)
        for module in method.student_modules:
            find_module(self.student, module)
        self.teacher.check_modules(method.teacher_modules)
        self.distillation[name] = method

    def _check_without_labels(self) -> None:
        for method in self.methods:
            method.check_without_labels(self.student)
        trained = {name for method in self.methods for name in method.trains}
        heads = [name for name in ("rpn_head", "roi_head", "bbox_head") if hasattr(self.student, name)]
        if left := [name for name in heads if name not in trained]:
            raise UnsupportedError(
                f"student_loss=False: no method trains the {' and '.join(left)} of {type(self.student).__name__}; "
                "without labels SoftLabelDistillation trains a PAA head, RPNDistillation with RCNNDistillation a "
                "Faster R-CNN."
            )

    @property
    def methods(self) -> list[DistillationMethod]:
        """The methods in the order of the config."""
        return list(self.distillation.values())

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The student's own losses, steered by the methods, and the methods' losses.

        Args:
            batch_inputs: Images normalised for the student, (N, 3, H, W).
            batch_data_samples: Ground truth and metadata of the N images.
        """
        methods = self.methods
        listening = [method.teacher_modules for method in methods if method.teacher_modules]
        teacher = self.teacher.look(
            batch_inputs, batch_data_samples, chain.from_iterable(listening), shared=len(listening) > 1
        )
        with ExitStack() as steering:
            outputs = steering.enter_context(
                capture(self.student, (name for method in methods for name in method.student_modules))
            )
            step = Step(batch_inputs, batch_data_samples, self.student, teacher, outputs, self.student_loss)
            for method in methods:
                steering.enter_context(method.steer(step))
            losses = {}
            if self.student_loss:
                losses.update(self.student.loss(batch_inputs, batch_data_samples))
            else:
                run_dense(self.student, batch_inputs)
        for name, method in self.distillation.items():
            terms = method.losses(step)
            if taken := sorted(set(terms) & set(losses)):
                raise ConfigError(f"method {name!r} returns {taken}, which another loss is already called.")
            losses.update(terms)
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, **kwargs: Any) -> SampleList:
        """The student's predictions."""
        return self.student.predict(batch_inputs, batch_data_samples, **kwargs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> Any:
        return self.student._forward(batch_inputs, batch_data_samples)

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """The student's features."""
        return self.student.extract_feat(batch_inputs)

    # -- To everything outside, the student ------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            student = self.__dict__.get("_modules", {}).get("student")
            if student is None:
                raise
            return getattr(student, name)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The student's parameters by their own names, then the adapters' under ``distillation.``.

        Optimizer constructors decide by name (layer-wise decay asks for ``backbone.`` at the start).
        """
        start = f"{prefix}." if prefix else ""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            yield start + name[len(start) :].removeprefix(STUDENT), parameter

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> DistillationDetector:
        super()._apply(fn, *args, **kwargs)
        self.teacher.move(fn)
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any) -> None:
        names = [key[len(prefix) :] for key in state_dict if key.startswith(prefix)]
        own_child = hasattr(self.student, STUDENT[:-1])
        for name in names:
            # Whoever goes by named_modules (MMDetection's SyncNormHook) has the prefix already.
            if not name.startswith((DISTILLATION, *([] if own_child else [STUDENT]))):
                state_dict[f"{prefix}{STUDENT}{name}"] = state_dict.pop(prefix + name)
        metadata = getattr(state_dict, "_metadata", None)
        if metadata is not None and not any(key.startswith(prefix + STUDENT) for key in metadata):
            # Versions of the student's modules, looked up by the names that its modules have in here.
            for key in [key for key in metadata if key.startswith(prefix)]:
                metadata[(prefix + STUDENT + key[len(prefix) :]).rstrip(".")] = metadata[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _strip_student_prefix(
    module: nn.Module, state_dict: OrderedDict, prefix: str, local_metadata: dict
) -> None:
    """State-dict hook: ``student.backbone...`` becomes ``backbone...``, in place and in the same order."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        value = state_dict.pop(key)
        state_dict[prefix + key[len(prefix) :].removeprefix(STUDENT)] = value
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        student = prefix + STUDENT[:-1]
        for key in [key for key in metadata if key == student or key.startswith(student + ".")]:
            metadata[(prefix + key[len(student) + 1 :]).rstrip(".")] = metadata.pop(key)
