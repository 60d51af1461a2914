"""Detector whose networks are trained by knowledge distillation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

from lad.base.capture import Capture, Outputs
from lad.base.phases import Phase
from lad.base.progress import Progress
from lad.base.random_state import RandomState
from lad.detectors.binding import build_methods
from lad.detectors.bound import BoundMethod, Candidates
from lad.detectors.conflicts import (
    check_always_active,
    check_can_learn_without_labels,
    check_is_list_of_methods,
    check_is_method,
    check_trains_without_labels,
    steering_order,
)
from lad.detectors.masks import samples_for
from lad.detectors.names import trains_exits
from lad.detectors.networks import NetworksDetector
from lad.detectors.pretraining import find_pretraining, phase_of, pretrained
from lad.detectors.steps import Batch, modules_to_capture, steps_of
from lad.detectors.terms import add_terms, reach_adapters, scaled_terms, weighted_losses
from lad.errors import ConfigError, listed
from lad.methods.base import DistillationMethod, JointMethod, Step
from lad.networks.cache import take_fingerprints
from lad.networks.forward import part_of, run_dense
from lad.networks.gives import PREDICTIONS
from lad.networks.initialisation import Inheritance, find_inheritance, inherit, wanted_modules
from lad.networks.roles import teacher_configs, trained_configs
from lad.networks.routes import Teacher, find_route
from lad.networks.single_value import explaining_single_values
from lad.networks.snapshot import Snapshot

import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.logging import print_log
from mmengine.model import ModuleDict
from torch import Tensor


@MODELS.register_module()
class DistillationDetector(NetworksDetector):
    """Networks trained by any number of distillation methods, with frozen teachers, snapshots, peers and exits.

    To everything outside it is the deployed network; see :class:`lad.detectors.networks.NetworksDetector`. Each method
    trains one *learner* (a trained network or an exit) and is *taught by* a frozen teacher, a snapshot, a trained peer,
    an exit, or an ensemble of them; joint methods train several networks together.

    Methods that declare a pretraining train alone before the task begins; :class:`lad.engine.hooks.PhaseHook` keeps
    resting parameters out of the optimizer.

    Args:
        student: The only trained network: a config path, or a dict with ``config`` and overrides, or a model dict.
        teacher: The only frozen teacher: likewise, with the required key ``checkpoint`` (path or URL).
        methods: Configs of distillation methods. A method's ``name`` (default: its type) is its key under
            ``distillation.``. ``learner`` names the network or exit that it trains (default: the deployed network),
            ``taught_by`` its teacher (default: the only frozen one; methods of exits: every exit of the deployed
            network, taught by that network); ``taught_by=['a', 'b']`` with
            ``ensemble='average'`` or ``'attention'`` (:func:`lad.networks.ensemble.combine`) combines several, and
            :class:`lad.methods.base.SeveralTeachersMethod` takes them apart. Where there are several, the names of
            its losses begin with the learner's and the teacher's, ``a.loss_hint``. ``active`` is the part of the run
            in which a method does something, ``dict(epochs=(0, 6))`` (:func:`lad.base.schedules.build_window`), and
            ``factor`` what all its loss terms are multiplied by: a number, a schedule, or a part of the learner's own
            loss (:func:`lad.detectors.loss_ratio.build_factor`).
        student_loss: Whether the student learns its own loss too. False: from the teacher alone, by the methods'
            losses; labels are then needed only where a method needs them.
        data_preprocessor: Replaces the deployed network's.
        teachers: Several teachers by name, instead of ``teacher``. ``dict(snapshot_of='student', at='start')`` is a
            frozen copy of a trained network, taken before the first step, or with ``at='epoch'`` before each epoch.
        networks: Several trained networks by name, instead of ``student``.
        deploy: The name of the deployed one of them; by default the first.
        exits: Auxiliary predictors by network and name, ``dict(student=dict(early=dict(levels=[1])))``; see
            :class:`lad.networks.exits.Exit`. They are trained with the network's labels and not deployed.
        predict_with: ``'ensemble'``: predict with all trained networks, merged; by default with the deployed one.
        initialise_from_teacher: Modules whose weights the deployed network takes over from a frozen teacher where names
            and shapes agree, after its own initialisation and before anything is loaded: ``['neck', 'bbox_head']``, or
            ``dict(teacher='a', modules=[...])`` where there are several.
        init_cfg: As in MMEngine.
        keep_exits: Write each exit as a plain detector of a truncated backbone beside the deployed network, config and
            checkpoint, for an early exit at deployment; :class:`lad.engine.hooks.SaveExitsHook` does.

    Raises:
        ConfigError, CheckpointError, UnsupportedError: what cannot work is refused here, before training.
    """

    def __init__(
        self,
        student: str | dict | None = None,
        teacher: dict | None = None,
        methods: Sequence[dict] = (),
        student_loss: bool = True,
        data_preprocessor: dict | None = None,
        teachers: dict[str, dict] | None = None,
        networks: dict[str, str | dict] | None = None,
        deploy: str | None = None,
        exits: dict[str, dict] | None = None,
        predict_with: str | None = None,
        initialise_from_teacher: str | Sequence[str] | dict | None = None,
        init_cfg: dict | None = None,
        keep_exits: bool = False,
    ) -> None:
        check_is_list_of_methods(methods)
        for method in methods:
            # Before a teacher is downloaded.
            check_is_method(dict(method).get("type"))
        trained = trained_configs(student, networks, deploy)
        super().__init__(trained, data_preprocessor, exits, predict_with, init_cfg, keep_exits)
        # A method of exits without exits is refused by itself.
        alone = len(self.learners) == 1 and not any(trains_exits(method["type"]) for method in methods)
        self._build_teachers(teacher_configs(teacher, teachers, required=alone))
        self.student_loss = student_loss
        if not student_loss:
            check_can_learn_without_labels(self.student, self.learners)
        # Adapters draw their initial weights here; the networks' own must not depend on which methods there are.
        with torch.random.fork_rng(devices=[]):
            self.bound = build_methods(methods, self._candidates())
        self.distillation = ModuleDict({name: one.method for name, one in self.bound.items()})
        if not student_loss:
            check_trains_without_labels(self.methods, self.student)
            check_always_active(self.bound.values())
        self._loss_order = steering_order(self.bound.values(), tuple(self.learners))
        self.pretraining = find_pretraining(self.bound, self.learners)
        self.phase: Phase | None = None
        self._captures: dict[bool, dict[str, Capture]] = {}
        #: Set by PhaseHook, without which resting parameters would be moved by weight decay.
        self.optimizer_skips_resting = False
        self.inheritance: Inheritance | None = None
        if initialise_from_teacher is not None:
            self._plan_inheritance(initialise_from_teacher)
        by_methods = any(method.needs_fingerprints for method in self.methods)
        if by_methods or any(teacher.needs_fingerprints for teacher in self.teachers.values()):
            self.data_preprocessor.register_forward_pre_hook(take_fingerprints, with_kwargs=True)

    def _candidates(self) -> Candidates:
        return Candidates(self.learners, tuple(self.trained_networks), self.deploy, self.teachers)

    def _plan_inheritance(self, setting: str | Sequence[str] | dict) -> None:
        name, modules = wanted_modules(setting)
        [source] = find_route(self.teachers, {}, name, None, "initialise_from_teacher").members.values()
        if isinstance(source, Snapshot):
            raise ConfigError(
                "initialise_from_teacher: a snapshot has the weights of a network of the same run; name a "
                "frozen teacher."
            )
        if PREDICTIONS not in source.gives:
            raise ConfigError(
                f"initialise_from_teacher: {type(source.model).__name__} is no detector whose weights a student could "
                "take over; name a teacher of dict(config=PATH, checkpoint=PATH)."
            )
        if source.speed.fuse:
            raise ConfigError(
                "initialise_from_teacher copies the teacher's weights, and speed=dict(fuse=True) has changed them: "
                "leave out fuse."
            )
        self._inherits_from = source
        self.inheritance = find_inheritance(self.student, source.model, modules)
        inherit(self.student, source.model, self.inheritance)

    @property
    def methods(self) -> list[DistillationMethod]:
        """The methods in the order of the config."""
        return list(self.distillation.values())

    def teacher_of(self, name: str) -> Teacher | None:
        """The teacher of the method of this name; None for one that is joint or takes several teachers apart."""
        route = self.bound[name].route
        return None if route is None else route.teacher

    def taught_by(self, name: str) -> str:
        """The name of a method's teacher, 'a+b' for several; empty for the only frozen teacher, or for all apart."""
        route = self.bound[name].route
        return "" if route is None else self._candidates().teacher_label(route)

    def learner_label(self, name: str) -> str:
        """A learner's name in the log: empty for the only network, ``'early'`` for an exit of it."""
        return self._candidates().learner_label(name)

    # -- Loss -----------------------------------------------------------------------------------------------------

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The networks' own losses, steered by the methods, and the methods' losses; or those of the pretraining.

        Args:
            batch_inputs: Images normalised for the deployed network, (N, C, H, W).
            batch_data_samples: Ground truth and metadata of the N images.
        """
        if self.pretraining is not None and not self.optimizer_skips_resting:
            raise ConfigError(
                "a method pretrains, and nothing keeps resting parameters out of the optimizer: add "
                "default_hooks=dict(phases=dict(type='PhaseHook')), as lad train does."
            )
        for teacher in self.teachers.values():
            teacher.check_ready()
        return self.loss_at(Progress.of_run(), batch_inputs, batch_data_samples)

    def loss_at(
        self, progress: Progress, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> dict[str, Tensor]:
        """The losses of a step at a given place in the run; see :meth:`loss`.

        Args:
            progress: Place of the step.
            batch_inputs: Images normalised for the deployed network, (N, C, H, W).
            batch_data_samples: Ground truth and metadata of the N images.
        """
        self.take_snapshots(progress)
        if self.pretraining is None:
            return self._task_losses(progress, batch_inputs, batch_data_samples)
        self.enter_phase(progress)
        phase = self.phase
        assert phase is not None  # there is a pretraining
        compute = self._pretraining_losses if phase.is_pretraining else self._task_losses
        with phase.rest():
            losses = compute(progress, batch_inputs, batch_data_samples)
        return phase.reach_all(losses)

    def enter_phase(self, progress: Progress) -> None:
        """Determine which parameters learn at a place in the run; does nothing without a pretraining."""
        if self.pretraining is None:
            return
        is_pretraining = self.pretraining.covers(progress.iteration, progress.epoch)
        if self.phase is None or self.phase.is_pretraining != is_pretraining:
            self.phase = phase_of(self, self.learners, self.bound, is_pretraining)

    def _task_losses(self, progress: Progress, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        images = self._network_images(inputs, data_samples)
        # Without the student's own loss a step keeps those of all methods, be they zeros.
        active = {
            name: one for name, one in self.bound.items() if not self.student_loss or one.acts(progress)
        }
        with ExitStack() as observing:
            outputs = self._capture(observing, self.bound, is_pretraining=False)
            batch = Batch(progress, images, data_samples, outputs, self.student_loss)
            steps = steps_of(active, self._candidates(), batch, is_pretraining=False)
            for name, one in active.items():
                for step in steps[name].values():
                    observing.enter_context(one.method.observe(step))
            own = self._own_losses(steps, images, data_samples, outputs)
        losses = self._named(own)
        for name, one in active.items():
            with explaining_single_values(type(one.method).__name__, images[self.deploy]):
                if isinstance(one.method, JointMethod):
                    terms = one.method.joint_losses(steps[name])
                else:
                    terms = one.method.losses(steps[name][one.learner])
            add_terms(losses, one, scaled_terms(one, terms, own, progress))
        resting = [one.method for name, one in self.bound.items() if name not in active]
        return reach_adapters(losses, resting)

    def _own_losses(
        self,
        steps: Mapping[str, Mapping[str, Step]],
        images: Mapping[str, Tensor],
        data_samples: SampleList,
        outputs: Mapping[str, Outputs],
    ) -> dict[str, dict[str, Any]]:
        """The own losses of each network and exit; each starts from the step's random state."""
        # A single network draws from the generators as it does alone; several must not draw each other's numbers.
        start = RandomState.capture(images[self.deploy].device) if len(self.learners) > 1 else None
        own: dict[str, dict[str, Any]] = {}
        for name in steps:
            method = self.bound[name].method
            if isinstance(method, JointMethod):
                if start is not None:
                    start.restore()
                with explaining_single_values(listed(steps[name]), images[self.deploy]):
                    joint = method.own_losses(steps[name])
                for learner, losses in joint.items():
                    own[learner] = weighted_losses(losses, *self._own_weights(learner, steps))
        for learner in self._loss_order:
            if learner in own:
                continue
            network, _, exit_name = learner.partition(".")
            shared = nullcontext()
            if exit_name:
                shared = self.exits[network][exit_name].backbone.sharing(outputs[network]["backbone"])
            with shared:
                own[learner] = self._own_loss(learner, start, steps, images[network], data_samples)
        return own

    def _named(self, own: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The own losses of all learners under their names in the log."""
        candidates, named = self._candidates(), {}
        for learner in self.learners:
            label = candidates.learner_label(learner)
            named.update({f"{label}.{key}" if label else key: value for key, value in own[learner].items()})
        return named

    def _own_loss(
        self,
        learner: str,
        start: RandomState | None,
        steps: Mapping[str, Mapping[str, Step]],
        inputs: Tensor,
        data_samples: SampleList,
    ) -> dict[str, Any]:
        """The own loss of one network or exit, in the contexts of the methods that steer it."""
        network = self.learners[learner]
        if start is not None:
            start.restore()
            data_samples = samples_for(network, data_samples)
        with ExitStack() as steering:
            for one in self._methods_of(learner, steps):
                steering.enter_context(one.method.steer(steps[one.name][learner]))
            with explaining_single_values(learner, inputs):
                if self.student_loss:
                    losses = network.loss(inputs, data_samples)
                    return weighted_losses(losses, *self._own_weights(learner, steps))
                names = self._captures[False][learner].names
                run_dense(network, inputs, set(map(part_of, names)), data_samples)
            return {}

    def _methods_of(self, learner: str, names: Iterable[str]) -> list[BoundMethod]:
        """Those of the named methods that train a learner alone."""
        methods = [self.bound[name] for name in names]
        return [one for one in methods if learner in one.learners and not one.method.is_joint]

    def _own_weights(self, learner: str, steps: Mapping[str, Mapping[str, Step]]) -> tuple[float, float]:
        """Factors of a learner's own losses, and further ones of its classification losses."""
        weight, class_weight = 1.0, 1.0
        for one in self._methods_of(learner, steps):
            progress = steps[one.name][learner].progress
            weight *= one.method.own_loss_weight(progress)
            class_weight *= one.method.own_class_weight(progress)
        return weight, class_weight

    def _pretraining_losses(
        self, progress: Progress, inputs: Tensor, data_samples: SampleList
    ) -> dict[str, Tensor]:
        methods, images = pretrained(self.bound), self._network_images(inputs, data_samples)
        with ExitStack() as capturing:
            outputs = self._capture(capturing, methods, is_pretraining=True)
            for learner, found in self._captures[True].items():
                if found.names:
                    own = images[learner.partition(".")[0]]
                    run_dense(self.learners[learner], own, set(map(part_of, found.names)), data_samples)
        batch = Batch(progress, images, data_samples, outputs, self.student_loss)
        steps = steps_of(methods, self._candidates(), batch, is_pretraining=True)
        losses: dict[str, Tensor] = {}
        for name, one in methods.items():
            with explaining_single_values(type(one.method).__name__, images[self.deploy]):
                terms = one.method.pretraining_losses(steps[name][one.learner])
            add_terms(losses, one, terms)
        return losses

    def _network_images(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """The images as each trained network's own config normalises them, by network."""
        return {name: self.network_inputs(name, inputs, data_samples) for name in self.trained_networks}

    # -- What methods read ----------------------------------------------------------------------------------------

    def _capture(
        self, stack: ExitStack, methods: Mapping[str, BoundMethod], is_pretraining: bool
    ) -> dict[str, Outputs]:
        """Capture, for the length of a stack, what methods read of each learner."""
        # At the first step and not before: MMEngine exchanges batch norms when it wraps a model for several processes.
        if is_pretraining not in self._captures:
            wanted = modules_to_capture(methods, self.learners, self.exits, is_pretraining)
            self._captures[is_pretraining] = {
                learner: Capture(self.learners[learner], modules) for learner, modules in wanted.items()
            }
        return {
            learner: stack.enter_context(found.record())
            for learner, found in self._captures[is_pretraining].items()
        }

    def init_weights(self) -> None:
        """Initialise the networks and the adapters; what is inherited from the teacher comes last."""
        is_again = self.is_init  # MMEngine initialises once, and calls this at every start of a training
        super().init_weights()
        if self.inheritance is not None and not is_again:
            inherit(self.student, self._inherits_from.model, self.inheritance)
            print_log(f"initialise_from_teacher: {self.inheritance}", logger="current")
