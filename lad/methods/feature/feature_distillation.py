"""Feature distillation: compare feature maps of the student with feature maps of the teacher."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from lad.base.capture import levels_of, split_level
from lad.base.schedules import Schedule
from lad.base.settings import check_numbers, checked_flag
from lad.errors import ConfigError, UnsupportedError
from lad.losses.feature import Objects
from lad.methods.base import DistillationMethod, Link, Step
from lad.methods.feature.checks import check_gradients, check_whole_image, find_feature_loss
from lad.methods.feature.gradient_share import GradientShare, build_weight
from lad.methods.feature.maps import adapt, as_map, channels_of, objects_of
from lad.methods.feature.pairs import Pair, numbered, pair_maps, report_strides
from lad.methods.settings import checked_loss_name
from lad.networks.connectors import build_connector
from lad.networks.dry_run import dry_run
from lad.networks.gives import FEATURES
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor, nn


@MODELS.register_module()
class FeatureDistillation(DistillationMethod):
    """Compares maps of a student and of a teacher, whatever the two detectors are, by a loss.

    For each pair of maps:  loss(match_size(connector(student)), teacher_transform(teacher)). Connectors are built from
    the shapes that a dry run finds. Sequences of tokens (N, L, C), as of a Swin's stage, are compared with maps as the
    maps they are.

    A subclass for a paper overrides one of the ``make_...`` methods, which build what a pair needs, or
    :meth:`pair_loss`, which sees the step.

    Args:
        student: Name of the student's module, or several: ``'neck'``, ``'backbone.layer3'``. A module that returns
            several maps means all of them; ``'neck[1]'`` means the second.
        teacher: The teacher's modules, one for each of the student's.
        loss: A registered loss, called with (student's map, teacher's map); built once for each pair. See
            :class:`lad.losses.feature.FeatureLoss` for what it may need.
        connector: ``'auto'``: what the loss is made for; else nothing where channels agree or the loss does not
            compare them, and a 1x1 convolution (a linear layer for tokens and vectors) where they differ.
            ``'projection'``: such a layer even where they agree. A connector's config, with the channels filled in.
            ``None``: nothing.
        teacher_transform: Config of a module without weights to train that the teacher's maps pass first; its
            ``in_channels`` are filled in where it takes them.
        loss_weight: Factor of the result: a number, a schedule (:func:`lad.base.schedules.build_schedule`), or
            ``dict(type='gradient_share', share=0.1)``, which keeps the loss's share of the gradient at the student's
            maps (:class:`lad.methods.feature.gradient_share.GradientShare`).
        level_weights: Factor of each pair, in the order of the maps; 1 if None.
        average: Divide the sum over the pairs by their number. The papers' weights are for the sum.
        loss_name: What the loss is called; by default after its type, ``'loss_cwd'`` for ``CWDLoss``.
        init_cfg: As in MMEngine.
    """

    loss_name: str

    reads = FEATURES
    compares_classes = False
    compares_units = ()

    def __init__(
        self,
        student: str | Sequence[str] = "neck",
        teacher: str | Sequence[str] = "neck",
        loss: dict | None = None,
        connector: dict | str | None = "auto",
        teacher_transform: dict | None = None,
        loss_weight: float | dict | Schedule | GradientShare = 1.0,
        level_weights: Sequence[float] | None = None,
        average: bool = False,
        loss_name: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.loss_config = dict(loss or dict(type="HintLoss"))
        self._loss_class = find_feature_loss(type(self).__name__, self.loss_config.get("type"))
        self._any_shape = getattr(self._loss_class, "any_shape", False)
        if loss_name is None:
            loss_name = f"loss_{self._loss_class.__name__.removesuffix('Loss').lower()}"
        if isinstance(connector, str) and connector not in ("auto", "projection"):
            raise self.mistake(
                f"connector must be 'auto', 'projection', a connector's config or None, got {connector!r}."
            )
        self.student = [student] if isinstance(student, str) else list(student)
        self.teacher = [teacher] if isinstance(teacher, str) else list(teacher)
        if len(self.student) != len(self.teacher):
            raise self.mistake(
                f"{len(self.student)} modules of the student and {len(self.teacher)} of the teacher; name one for "
                "each."
            )
        self.connector = connector
        self.teacher_transform = teacher_transform
        self.loss_weight = build_weight(loss_weight, f"{type(self).__name__}: loss_weight")
        if level_weights is not None:
            if not isinstance(level_weights, (list, tuple)):
                raise self.mistake(
                    f"level_weights must be a list of numbers or None, got {level_weights!r:.60}."
                )
            for weight in level_weights:
                check_numbers(type(self).__name__, minimum=0, level_weights=weight)
        self.level_weights = level_weights
        self.average = checked_flag(type(self).__name__, "average", average)
        self.loss_name = checked_loss_name(type(self).__name__, loss_name)
        self.student_modules = tuple(dict.fromkeys(split_level(name)[0] for name in self.student))
        self.teacher_modules = tuple(dict.fromkeys(split_level(name)[0] for name in self.teacher))

    # -- Building -----------------------------------------------------------------------------------------------

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Pair the maps and build what each pair needs, from the shapes for a small image."""
        check_whole_image(type(self).__name__, student, self.student_modules)
        check_whole_image(type(self).__name__, teacher.model, self.teacher_modules)
        own, taught = dry_run(student, self.student_modules), teacher.dry_run(self.teacher_modules)
        self.pairs: list[Pair] = []
        self.connectors, self.teacher_transforms, self.pair_losses = ModuleList(), ModuleList(), ModuleList()
        for names in zip(self.student, self.teacher, strict=True):
            maps = [self._maps(calls.calls, name) for calls, name in zip((own, taught), names, strict=True)]
            if len(maps[0]) != len(maps[1]) or not maps[0]:
                raise self.mistake(
                    f"{names[0]!r} returns {len(maps[0])} feature maps for the student and {names[1]!r} "
                    f"{len(maps[1])} for the teacher; name one of them, such as 'neck[0]'."
                )
            for number, (features, hint) in enumerate(zip(*maps, strict=True)):
                own_name, taught_name = (numbered(name, number) for name in names)
                self._add_pair(own_name, taught_name, features, hint, teacher.model)
        if not self._any_shape:
            report_strides(type(self).__name__, self.pairs)
        if self.level_weights is not None and len(self.level_weights) != len(self.pairs):
            raise self.mistake(
                f"{len(self.level_weights)} level_weights for {len(self.pairs)} pairs of feature maps; give one for "
                "each."
            )

    def _add_pair(
        self, own_name: str, taught_name: str, features: Tensor, hint: Tensor, teacher: BaseDetector
    ) -> None:
        try:
            pair, features, hint = pair_maps(own_name, taught_name, features, hint, self._loss_class)
            transform = self.make_teacher_transform(pair, hint, teacher)
            self._check_transform(transform)
            with torch.no_grad():
                hint = transform(hint)
            connector = self.make_connector(pair, features, hint)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"{type(self).__name__}: {own_name!r} and {taught_name!r}: {error}"
            ) from error
        self.pairs.append(pair)
        self.teacher_transforms.append(transform)
        self.connectors.append(connector)
        self.pair_losses.append(self.make_loss(pair, hint))

    def make_teacher_transform(self, pair: Pair, hint: Tensor, teacher: BaseDetector) -> nn.Module:
        """Build the transform of the teacher's map before it is compared.

        Args:
            pair: Which maps.
            hint: The teacher's map of the dry run.
            teacher: The teacher, for a transform that depends on its weights.
        """
        if self.teacher_transform is None:
            return nn.Identity()
        config = dict(self.teacher_transform)
        kind = MODELS.get(config["type"]) if isinstance(config.get("type"), str) else config.get("type")
        if not isinstance(kind, type) or "in_channels" in inspect.signature(kind).parameters:
            config.setdefault("in_channels", channels_of(hint))
        return MODELS.build(config)

    def _check_transform(self, transform: nn.Module) -> None:
        """Refuse weights that no loss would train: the teacher's side gets no gradient."""
        adapters = () if self.pretraining is None else self.pretraining.adapters
        if "teacher_transforms" in adapters or not any(p.requires_grad for p in transform.parameters()):
            return
        raise UnsupportedError(
            f"teacher_transform {type(transform).__name__} has weights, and no loss trains what the teacher's maps "
            "pass; take a module without weights, freeze them (requires_grad_(False)), or pretrain them as "
            "FactorTransferDistillation does"
        )

    def make_connector(self, pair: Pair, features: Tensor, hint: Tensor) -> nn.Module:
        """Build the connector of the student's map.

        Args:
            pair: Which maps.
            features: The student's map of the dry run.
            hint: The teacher's, transformed.

        Raises:
            UnsupportedError: no connector leads from the one to the other.
        """
        config = self.connector
        compares_channels = getattr(self._loss_class, "same_channels", True)
        if config == "auto":
            config = getattr(self._loss_class, "connector", None)
            if config is None:
                config = (
                    "projection" if compares_channels and channels_of(features) != channels_of(hint) else None
                )
        if config is not None:
            return build_connector(config if isinstance(config, dict) else None, features.shape, hint.shape)
        if compares_channels and channels_of(features) != channels_of(hint):
            raise UnsupportedError(
                f"{channels_of(features)} channels (student) and {channels_of(hint)} (teacher), which "
                f"{self._loss_class.__name__} cannot compare; use connector='auto'."
            )
        return nn.Identity()

    def make_loss(self, pair: Pair, hint: Tensor) -> nn.Module:
        """Build the loss of one pair.

        Args:
            pair: Which maps.
            hint: The teacher's map of the dry run, transformed.
        """
        sized = dict(channels=channels_of(hint)) if getattr(self._loss_class, "sized", False) else {}
        return MODELS.build(dict(sized, **self.loss_config))

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refuse a loss that uses the ground truth."""
        if isinstance(self.loss_weight, GradientShare):
            raise UnsupportedError(
                f"{type(self).__name__}: a share of the gradient is one beside the student's own loss, so it needs "
                "student_loss=True; set loss_weight to a number."
            )
        if getattr(self._loss_class, "uses_objects", False):
            raise UnsupportedError(
                f"{type(self).__name__}: {self._loss_class.__name__} uses the ground truth, so it needs "
                "student_loss=True; CWDLoss and PKDLoss do not."
            )

    def links(self) -> list[Link]:
        """The pairs, each with the kind of its connector and the channels that it connects."""
        links = []
        for pair, connector, transform in zip(
            self.pairs, self.connectors, self.teacher_transforms, strict=True
        ):
            kinds = [
                f"{type(module).__name__}{where}"
                for module, where in ((connector, ""), (transform, " (teacher)"))
                if not isinstance(module, nn.Identity)
            ]
            text = f"{', '.join(kinds) or 'none'} {pair.channels[0]} -> {pair.channels[1]}"
            links.append(Link(pair.student, pair.teacher, text))
        return links

    def loss_weights(self) -> dict[str, float]:
        """The method's factor times that of its loss."""
        own = getattr(self.pair_losses[0], "loss_weight", 1.0) if len(self.pair_losses) else 1.0
        # One that follows gradients is no number of the config.
        if isinstance(self.loss_weight, GradientShare):
            return {}
        return {self.loss_name: self.loss_weight.end * own}

    def mistake(self, message: str) -> ConfigError:
        """An error about this method's config, with its name."""
        return ConfigError(f"{type(self).__name__}: {message}")

    # -- Training -----------------------------------------------------------------------------------------------

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The weighted sum over the pairs; gradients reach the student and the method's own weights."""
        own = [feature for name in self.student for feature in self._maps(step.outputs.calls, name)]
        taught = [hint for name in self.teacher for hint in self._maps(step.teacher.target, name)]
        check_gradients(type(self).__name__, self.pairs, own, step)
        factor: Any = self.loss_weight.at(step.progress)
        logged: dict[str, Tensor] = {}
        if isinstance(self.loss_weight, GradientShare):
            own = self.loss_weight.watch(own)
            logged[self.loss_name.replace("loss", "weight")] = factor
        # Once for all pairs.
        objects = objects_of(step) if getattr(self._loss_class, "uses_objects", False) else None
        terms = [
            self.compare(number, features, hint, step, objects)
            for number, (features, hint) in enumerate(zip(own, taught, strict=True))
        ]
        if self.level_weights is not None:
            terms = [weight * term for weight, term in zip(self.level_weights, terms, strict=True)]
        total = sum(terms[1:], start=terms[0]) / (len(terms) if self.average else 1)
        return {self.loss_name: factor * total, **logged}

    def compare(
        self, number: int, features: Tensor, hint: Tensor, step: Step, objects: Objects | None
    ) -> Tensor:
        """The loss of the pair of this number, of maps as the modules put them out."""
        if self.pairs[number].as_maps:
            image_size = (step.inputs.shape[-2], step.inputs.shape[-1])
            features, hint = as_map(features, image_size), as_map(hint, image_size)
        hint = self.teacher_transforms[number](hint)
        connector = self.connectors[number]
        features = connector(features) if self._any_shape else adapt(connector, features, hint)
        return self.pair_loss(number, features, hint, step, objects)

    def pair_loss(
        self, number: int, features: Tensor, hint: Tensor, step: Step, objects: Objects | None
    ) -> Tensor:
        """The loss of the pair of this number.

        Args:
            number: Of the pair, in :attr:`pairs`.
            features: The student's map after its connector, of the teacher's size.
            hint: The teacher's map after its transform.
            step: What else there is, such as the ground truth.
            objects: The ground truth's boxes; None where the loss does not use them.
        """
        more = () if objects is None else (objects,)
        return self.pair_losses[number](features, hint, *more)

    def _maps(self, calls: Callable[[str], list[Any]], full_name: str) -> list[Tensor]:
        name, level = split_level(full_name)
        try:
            return levels_of(calls(name), level)
        except ConfigError as error:
            raise self.mistake(f"{full_name!r}: {error}") from error
