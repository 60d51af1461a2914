"""A detector taught by another."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from lad.base.capture import INPUT, Outputs, capture, find_module, root_of
from lad.base.config import detector_config
from lad.base.phases import Phase
from lad.detectors.pretraining import find_pretraining, phase_of, pretrained
from lad.errors import ConfigError, UnsupportedError, nearest
from lad.losses import FeatureLoss, HintLoss
from lad.methods.base import DistillationMethod, Step
from lad.networks.cache import take_fingerprints
from lad.networks.ensemble import TeacherEnsemble
from lad.networks.forward import DENSE_HEADS, run_dense
from lad.networks.frozen import FrozenTeacher
from lad.networks.initialisation import Inheritance, find_inheritance, inherit, wanted_modules
from lad.networks.routes import Listening, build_teachers, choose, hear, look

import torch
from mmdet.models.detectors import BaseDetector, DetectionTransformer
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from mmengine.logging import print_log
from mmengine.model import ModuleDict
from torch import Tensor, nn

STUDENT = "student."
DISTILLATION = "distillation."


@MODELS.register_module()
class DistillationDetector(BaseDetector):
    """A student that a frozen teacher, or several, teach by any number of methods.

    To everything outside it is the student: its ``state_dict`` holds the student's keys without prefix (adapters
    of the methods under ``distillation.``), its attributes (``backbone``, ``bbox_head``, ...) and its
    predictions are the student's. The teacher is seen by nothing but the teacher code.

    Methods that declare a pretraining train alone before the task begins;
    :class:`lad.engine.hooks.PhaseHook` says when.

    Args:
        student: A config path, or a dict with ``config`` and overrides, or a model dict.
        teacher: Likewise, with the required key ``checkpoint`` (path or URL).
        methods: Configs of distillation methods. A method's ``name`` (default: its type) is its key under
            ``distillation.``. Where there are several teachers, its ``taught_by`` says which it listens to;
            ``taught_by=['a', 'b']`` with ``ensemble='average'`` or ``'attention'``
            (:func:`lad.networks.ensemble.combine`) lets several teach as one.
            Its losses then begin with their names, ``a.loss_hint``.
        student_loss: Whether the student learns its own loss too. False: from the teacher alone, by the methods'
            losses; labels are then needed only where a method asks for them.
        data_preprocessor: Replaces the student's.
        teachers: Several teachers by name, instead of ``teacher``.
        initialise_from_teacher: Modules whose weights the student takes over from its teacher where names and shapes
            agree, after its own initialisation and before anything is loaded: ``['neck', 'bbox_head']``, or
            ``dict(teacher='a', modules=[...])`` where there are several.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError, CheckpointError, UnsupportedError: what cannot work is refused here, before training.
    """

    def __init__(
        self,
        student: str | dict,
        teacher: dict | None = None,
        methods: Sequence[dict] = (),
        student_loss: bool = True,
        data_preprocessor: dict | None = None,
        teachers: dict[str, dict] | None = None,
        initialise_from_teacher: str | Sequence[str] | dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        for method in methods:
            # Before a teacher is downloaded.
            _check_is_method(dict(method).get("type"))
        config = detector_config(student, "student")
        if data_preprocessor is not None:
            config.data_preprocessor = data_preprocessor
        self.student = MODELS.build(config)
        self.data_preprocessor = self.student.data_preprocessor
        self.teachers = build_teachers(teacher, teachers, self.student.data_preprocessor)
        self.student_loss = student_loss
        dense = any(hasattr(self.student, name) for name in DENSE_HEADS)
        if not student_loss and (not dense or isinstance(self.student, DetectionTransformer)):
            raise UnsupportedError(
                f"student_loss=False needs a dense head ({', '.join(DENSE_HEADS)}), which "
                f"{type(self.student).__name__} has not."
            )
        self.distillation = ModuleDict()
        self._listening: dict[str, Listening] = {}
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
        self.pretraining = find_pretraining(self.student, self.distillation)
        self.phase: Phase | None = None
        self.inheritance: Inheritance | None = None
        if initialise_from_teacher is not None:
            name, modules = wanted_modules(initialise_from_teacher)
            listening = choose(self.teachers, name, None, "initialise_from_teacher")
            self._heir_of = listening.teacher
            if self._heir_of.speed.fuse:
                raise ConfigError(
                    "initialise_from_teacher copies the teacher's weights, and speed=dict(fuse=True) has changed them: "
                    "leave out fuse."
                )
            self.inheritance = find_inheritance(self.student, self._heir_of.model, modules)
            inherit(self.student, self._heir_of.model, self.inheritance)
        if any(method.needs_fingerprints for method in self.methods):
            self.data_preprocessor.register_forward_pre_hook(take_fingerprints, with_kwargs=True)
        self._register_state_dict_hook(_strip_student_prefix)

    def _add_method(self, config: dict) -> None:
        kind = config.get("type")
        listening = choose(
            self.teachers, config.pop("taught_by", None), config.pop("ensemble", None), str(kind)
        )
        name = config.pop("name", None)
        if name is None:
            first = self._listening.get(kind)
            # The same method may learn from one teacher and from another.
            again = first is not None and first.names != listening.names
            name = f"{kind}_{'_'.join(listening.names)}" if again else kind
        if name in self.distillation:
            raise ConfigError(f"two methods are called {name!r}: give each a name, dict(type=..., name=...).")
        method: DistillationMethod = MODELS.build(config)
        for other_name, other in self.distillation.items():
            steers = type(method).steer is not DistillationMethod.steer
            if steers and type(other) is type(method):
                raise ConfigError(
                    f"a student has one {type(method).__name__}; take the second out of methods."
                )
            same_teachers = self._listening[other_name].names == listening.names
            if same_teachers and method.loss_name is not None and other.loss_name == method.loss_name:
                raise ConfigError(
                    f"two methods call their loss {method.loss_name!r}: give one another loss_name."
                )
        if isinstance(listening.teacher, TeacherEnsemble):
            self._check_ensemble(method, listening.teacher)
        method.bind(self.student, listening.teacher)
        for module in method.student_modules:
            find_module(self.student, module)
            if module == f"backbone{INPUT}":
                raise UnsupportedError(
                    f"{type(method).__name__}: {module!r} of the student are the images, from which nothing learns: "
                    "name what a layer puts out, such as 'backbone.layer3'."
                )
        listening.teacher.check_modules(method.teacher_modules)
        if isinstance(listening.teacher, TeacherEnsemble):
            listening.teacher.check_weighable(method.weighable or method.teacher_modules)
        self.distillation[name] = method
        self._listening[name] = listening

    def _check_ensemble(self, method: DistillationMethod, ensemble: TeacherEnsemble) -> None:
        name = type(method).__name__
        if not method.ensembles:
            raise UnsupportedError(
                f"{name} learns from one teacher: give taught_by one name, and no ensemble."
            )
        for teacher in ensemble.members.values():
            # Each must fit by itself; what a method builds when it binds is thrown away here.
            copy.deepcopy(method).bind(self.student, teacher)
        ensemble.check_units(method.compares_units)

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

    @property
    def teacher(self) -> FrozenTeacher:
        """The only teacher.

        Raises:
            ConfigError: there are several.
        """
        if len(self.teachers) > 1:
            raise ConfigError(f"there are several teachers, {', '.join(self.teachers)}: say which is meant.")
        return next(iter(self.teachers.values()))

    def teacher_of(self, name: str) -> FrozenTeacher | TeacherEnsemble:
        """Whom the method of this name listens to."""
        return self._listening[name].teacher

    def taught_by(self, name: str) -> str:
        """The name of the teacher that a method listens to, 'a+b' for an ensemble; empty if there is but one."""
        return self._listening[name].label if len(self.teachers) > 1 else ""

    def enter_phase(self, iteration: int, epoch: int) -> bool:
        """Say which iteration (of which epoch; both from 0) comes next; :class:`lad.engine.hooks.PhaseHook` does.

        Returns:
            Whether another phase begins with it.
        """
        if self.pretraining is None:
            return False
        is_pretraining = self.pretraining.covers(iteration, epoch)
        if self.phase is not None and self.phase.is_pretraining == is_pretraining:
            return False
        self.phase = phase_of(self, self.student, self.distillation, is_pretraining)
        return True

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The student's own losses, steered by the methods, and the methods' losses; or those of the pretraining.

        Args:
            batch_inputs: Images normalised for the student, (N, 3, H, W).
            batch_data_samples: Ground truth and metadata of the N images.
        """
        if self.pretraining is None:
            return self._task_losses(batch_inputs, batch_data_samples)
        if self.phase is None:
            raise ConfigError(
                "a method pretrains, and nobody says which iteration it is: add "
                "default_hooks=dict(phases=dict(type='PhaseHook')), as tools/train.py does."
            )
        compute = self._pretraining_losses if self.phase.is_pretraining else self._task_losses
        with self.phase.rest():
            losses = compute(batch_inputs, batch_data_samples)
        return self.phase.reach_all(losses)

    def _task_losses(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        with ExitStack() as steering:
            modules = _student_modules(self.methods, is_pretraining=False)
            outputs = steering.enter_context(capture(self.student, modules))
            steps = self._steps(self.distillation, batch_inputs, batch_data_samples, outputs, False)
            for name, method in self.distillation.items():
                steering.enter_context(method.steer(steps[name]))
            losses = {}
            if self.student_loss:
                losses.update(self.student.loss(batch_inputs, batch_data_samples))
            else:
                run_dense(self.student, batch_inputs)
        for name, method in self.distillation.items():
            self._add_terms(losses, name, method.losses(steps[name]))
        return losses

    def _pretraining_losses(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        methods = pretrained(self.distillation)
        modules = _student_modules(methods.values(), is_pretraining=True)
        with capture(self.student, modules) as outputs:
            if modules:
                run_dense(self.student, batch_inputs, set(map(root_of, modules)))
        steps = self._steps(methods, batch_inputs, batch_data_samples, outputs, True)
        losses = {}
        for name, method in methods.items():
            self._add_terms(losses, name, method.pretraining_losses(steps[name]))
        return losses

    def _steps(
        self,
        methods: Mapping[str, DistillationMethod],
        inputs: Tensor,
        data_samples: SampleList,
        outputs: Outputs,
        is_pretraining: bool,
    ) -> dict[str, Step]:
        """The step as each method sees it, by the methods' names."""
        listeners = [
            (self._listening[name], method.listens_to(is_pretraining)[1]) for name, method in methods.items()
        ]
        views = look(self.teachers, inputs, data_samples, listeners)
        heard = hear({name: self._listening[name] for name in methods}, views)
        first = Step(
            inputs, data_samples, self.student, next(iter(views.values())), outputs, self.student_loss
        )
        return {name: replace(first, teacher=heard[name]) for name in methods}

    def _add_terms(self, losses: dict[str, Tensor], name: str, terms: dict[str, Tensor]) -> None:
        label = self.taught_by(name)
        terms = {f"{label}.{term}" if label else term: value for term, value in terms.items()}
        if taken := sorted(set(terms) & set(losses)):
            raise ConfigError(f"method {name!r} returns {taken}, which another loss is already called.")
        losses.update(terms)

    def init_weights(self) -> None:
        """Initialise the student and the adapters; what is inherited from the teacher comes last."""
        is_again = self.is_init  # MMEngine initialises once, and asks at every start of a training
        super().init_weights()
        if self.inheritance is not None and not is_again:
            inherit(self.student, self._heir_of.model, self.inheritance)
            print_log(f"initialise_from_teacher: {self.inheritance}", logger="current")

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
        for teacher in self.teachers.values():
            teacher.move(fn)
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


def _check_is_method(kind: str | type | None) -> None:
    """Refuse other registered classes, such as losses, in the place of a method.

    What is in no registry is left to the registry's own answer.
    """
    known = MODELS.get(kind) if isinstance(kind, str) else kind
    if not isinstance(known, type) or issubclass(known, DistillationMethod):
        return
    name = known.__name__
    if made_for := getattr(known, "made_for", ""):
        raise ConfigError(f"{name} is a loss, not a method: it is made for {made_for}.")
    if issubclass(known, (FeatureLoss, HintLoss)):
        raise ConfigError(
            f"{name} is a loss, not a method: dict(type='FeatureDistillation', loss=dict(type='{name}'))."
        )
    methods = [
        key
        for key, other in MODELS.module_dict.items()
        if isinstance(other, type) and issubclass(other, DistillationMethod)
    ]
    raise ConfigError(
        f"{name} is no distillation method{nearest(name, methods)}; docs/methods.md lists them."
    )


def _student_modules(methods: Iterable[DistillationMethod], is_pretraining: bool) -> list[str]:
    """What the methods read of the student in a phase."""
    return [name for method in methods for name in method.listens_to(is_pretraining)[0]]


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
