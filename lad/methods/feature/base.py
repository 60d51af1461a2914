"""Feature distillation: maps of the student are compared with maps of the teacher."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lad.base.capture import find_module, levels_of, root_of, split_level
from lad.errors import ConfigError, UnsupportedError, listed, nearest
from lad.losses.feature import Objects
from lad.methods.base import DistillationMethod, Link, Step
from lad.networks.connectors import build_connector, match_size, tokens_to_map
from lad.networks.dry_run import DRY_RUN_SIZE, dry_run
from lad.networks.forward import DENSE_HEADS
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import DetectionTransformer
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmengine.logging import print_log
from mmengine.model import ModuleList
from torch import Tensor, nn

WHOLE_IMAGE = ("backbone", "neck", *DENSE_HEADS)


@dataclass(frozen=True)
class Pair:
    """One map of the student's and the one of the teacher's that it is compared with.

    Attributes:
        student: Its name, ``'neck[1]'``.
        teacher: Likewise.
        channels: The student's and the teacher's.
        strides: The student's and the teacher's pixels of the image a cell; (0, 0) for what are no two maps.
        as_maps: Whether sequences of tokens are made maps before they are compared.
    """

    student: str
    teacher: str
    channels: tuple[int, int]
    strides: tuple[int, int]
    as_maps: bool


@MODELS.register_module()
class FeatureDistillation(DistillationMethod):
    """Compares maps of a student and of a teacher, whatever the two detectors are, by a loss.

    For each pair of maps:  loss(match_size(connector(student)), teacher_transform(teacher)). Connectors are built from
    the shapes that a dry run finds. Sequences of tokens (N, L, C), as of a Swin's stage, are compared with maps as the
    maps they are.

    A subclass for a paper overrides one of the ``make_...`` methods, which build what a pair needs, or
    :meth:`pair_loss`, which sees the step.

    Args:
        student: Name of the student's module, or several: ``'neck'``, ``'backbone.layer3'``. A module that puts out
            several maps means all of them; ``'neck[1]'`` means the second.
        teacher: The teacher's modules, one for each of the student's.
        loss: A registered loss, called with (student's map, teacher's map); built once for each pair. See
            :class:`lad.losses.feature.FeatureLoss` for what it may ask for.
        connector: ``'auto'``: what the loss is made for; else nothing where channels agree or the loss does not mind,
            and a 1x1 convolution (a linear layer for tokens and vectors) where they differ. ``'projection'``: such a
            layer even where they agree. A connector's config, with the channels filled in. ``None``: nothing.
        teacher_transform: Config of a module without weights to train that the teacher's maps pass first; its
            ``in_channels`` are filled in where it takes them.
        loss_weight: Factor of the result.
        level_weights: Factor of each pair, in the order of the maps; 1 if None.
        average: Divide the sum over the pairs by their number. The papers' weights are for the sum.
        loss_name: What the loss is called; by default after its type, ``'loss_cwd'`` for ``CWDLoss``.
        init_cfg: As in MMEngine.
    """

    compares_classes = False
    compares_units = ()

    def __init__(
        self,
        student: str | Sequence[str] = "neck",
        teacher: str | Sequence[str] = "neck",
        loss: dict | None = None,
        connector: dict | str | None = "auto",
        teacher_transform: dict | None = None,
        loss_weight: float = 1.0,
        level_weights: Sequence[float] | None = None,
        average: bool = False,
        loss_name: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.loss_config = dict(loss or dict(type="HintLoss"))
        self._loss_class = self._find_loss(self.loss_config.get("type"))
        self._any_shape = getattr(self._loss_class, "any_shape", False)
        if loss_name is None:
            loss_name = f"loss_{self._loss_class.__name__.removesuffix('Loss').lower()}"
        if "loss" not in loss_name:
            raise self.mistake(f"loss_name must contain 'loss', got {loss_name!r}.")
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
        self.loss_weight = loss_weight
        self.level_weights = level_weights
        self.average = average
        self.loss_name = loss_name
        self.student_modules = tuple(dict.fromkeys(split_level(name)[0] for name in self.student))
        self.teacher_modules = tuple(dict.fromkeys(split_level(name)[0] for name in self.teacher))

    # -- Building -----------------------------------------------------------------------------------------------

    def bind(self, student: nn.Module, teacher: Teacher) -> None:
        """Pair the maps and build what each pair needs, from the shapes for a small image."""
        self._check_modules(student, self.student_modules)
        self._check_modules(teacher.model, self.teacher_modules)
        own, taught = dry_run(student, self.student_modules), teacher.dry_run(self.teacher_modules)
        self.pairs: list[Pair] = []
        self.connectors, self.teacher_transforms, self.pair_losses = ModuleList(), ModuleList(), ModuleList()
        for names in zip(self.student, self.teacher, strict=True):
            maps = [self._maps(calls.calls, name) for calls, name in zip((own, taught), names, strict=True)]
            if len(maps[0]) != len(maps[1]) or not maps[0]:
                raise self.mistake(
                    f"{names[0]!r} puts out {len(maps[0])} feature maps for the student and {names[1]!r} "
                    f"{len(maps[1])} for the teacher; name one of them, such as 'neck[0]'."
                )
            for number, (features, hint) in enumerate(zip(*maps, strict=True)):
                own_name, taught_name = (_numbered(name, number) for name in names)
                self._add_pair(own_name, taught_name, features, hint, teacher.model)
        self._report_strides()
        if self.level_weights is not None and len(self.level_weights) != len(self.pairs):
            raise self.mistake(
                f"{len(self.level_weights)} level_weights for {len(self.pairs)} pairs of feature maps; give one for "
                "each."
            )

    def _report_strides(self) -> None:
        """Say which maps are resized to be compared: on purpose, or because two detectors' levels begin elsewhere."""
        resized = [
            f"{pair.student} ({pair.strides[0]}) with {pair.teacher} ({pair.strides[1]})"
            for pair in self.pairs
            if pair.strides[0] != pair.strides[1] and not self._any_shape
        ]
        if resized:
            print_log(
                f"{type(self).__name__}: maps of other strides are compared, the student's resized: {listed(resized)}. "
                "If levels of the same strides are meant, name them, such as 'neck[1]'.",
                logger="current",
                level=logging.WARNING,
            )

    def _add_pair(
        self, own_name: str, taught_name: str, features: Tensor, hint: Tensor, teacher: nn.Module
    ) -> None:
        maps_only = getattr(self._loss_class, "maps_only", False)
        other_tokens = features.dim() == hint.dim() == 3 and features.shape[1] != hint.shape[1]
        as_maps = maps_only or features.dim() != hint.dim() or other_tokens
        as_maps = as_maps and not self._any_shape
        channels = channels_of(features), channels_of(hint)
        try:
            if as_maps:
                features, hint = as_map(features, DRY_RUN_SIZE), as_map(hint, DRY_RUN_SIZE)
            strides = (stride_of(features), stride_of(hint)) if features.dim() == hint.dim() == 4 else (0, 0)
            pair = Pair(own_name, taught_name, channels, strides, as_maps)
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

    def make_teacher_transform(self, pair: Pair, hint: Tensor, teacher: nn.Module) -> nn.Module:
        """What the teacher's map passes before it is compared.

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
        """Refuse weights that nothing would train: losses give the teacher's side no gradient."""
        adapters = () if self.pretraining is None else self.pretraining.adapters
        if "teacher_transforms" in adapters or not any(p.requires_grad for p in transform.parameters()):
            return
        raise UnsupportedError(
            f"teacher_transform {type(transform).__name__} has weights, and no loss trains what the teacher's maps "
            "pass; take a module without weights, freeze them (requires_grad_(False)), or pretrain them as "
            "FactorTransferDistillation does"
        )

    def make_connector(self, pair: Pair, features: Tensor, hint: Tensor) -> nn.Module:
        """What the student's map passes before it is compared.

        Args:
            pair: Which maps.
            features: The student's map of the dry run.
            hint: The teacher's, transformed.

        Raises:
            UnsupportedError: no connector leads from the one to the other.
        """
        config = self.connector
        minds = getattr(self._loss_class, "same_channels", True)
        if config == "auto":
            config = getattr(self._loss_class, "connector", None)
            if config is None:
                config = "projection" if minds and channels_of(features) != channels_of(hint) else None
        if config is not None:
            return build_connector(None if config == "projection" else config, features.shape, hint.shape)
        if minds and channels_of(features) != channels_of(hint):
            raise UnsupportedError(
                f"{channels_of(features)} channels (student) and {channels_of(hint)} (teacher), which "
                f"{self._loss_class.__name__} cannot compare; use connector='auto'."
            )
        return nn.Identity()

    def make_loss(self, pair: Pair, hint: Tensor) -> nn.Module:
        """The loss of one pair.

        Args:
            pair: Which maps.
            hint: The teacher's map of the dry run, transformed.
        """
        sized = dict(channels=channels_of(hint)) if getattr(self._loss_class, "sized", False) else {}
        return MODELS.build(dict(sized, **self.loss_config))

    def _find_loss(self, name: str | None) -> type:
        loss = MODELS.get(name) if isinstance(name, str) else name
        if not isinstance(loss, type):
            known = [key for key in MODELS.module_dict if key.endswith("Loss")]
            raise self.mistake(f"there is no loss {name!r}{nearest(str(name), known)}.")
        if made_for := getattr(loss, "made_for", ""):
            raise self.mistake(f"{loss.__name__} does not compare feature maps; it is made for {made_for}.")
        return loss

    def _check_modules(self, model: nn.Module, names: Sequence[str]) -> None:
        for name in names:
            find_module(model, name)
            has_queries = isinstance(model, DetectionTransformer) and root_of(name) in DENSE_HEADS
            if root_of(name) not in WHOLE_IMAGE or has_queries:
                raise UnsupportedError(
                    f"{type(self).__name__}: {name!r} of {type(model).__name__} does not see the whole image, so two "
                    f"detectors' features do not correspond; it works with modules of {', '.join(WHOLE_IMAGE)}."
                )

    def check_without_labels(self, student: nn.Module) -> None:
        """Refuse a loss that looks at the ground truth."""
        if getattr(self._loss_class, "uses_objects", False):
            raise UnsupportedError(
                f"{type(self).__name__}: {self._loss_class.__name__} looks at the ground truth, so it needs "
                "student_loss=True; CWDLoss and PKDLoss do not."
            )

    def links(self) -> list[Link]:
        """One a pair, with the kind of its connector and the channels that it connects."""
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
        return {self.loss_name: self.loss_weight * own}

    def mistake(self, message: str) -> ConfigError:
        """A mistake in this method's config."""
        return ConfigError(f"{type(self).__name__}: {message}")

    # -- Training -----------------------------------------------------------------------------------------------

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The weighted sum over the pairs; gradients reach the student and the method's own weights."""
        own = [feature for name in self.student for feature in self._maps(step.outputs.calls, name)]
        taught = [hint for name in self.teacher for hint in self._maps(step.teacher.target, name)]
        self._check_gradients(own, step)
        # Once for all pairs.
        objects = objects_of(step) if getattr(self._loss_class, "uses_objects", False) else None
        terms = [
            self.compare(number, features, hint, step, objects)
            for number, (features, hint) in enumerate(zip(own, taught, strict=True))
        ]
        if self.level_weights is not None:
            terms = [weight * term for weight, term in zip(self.level_weights, terms, strict=True)]
        return {self.loss_name: self.loss_weight * sum(terms) / (len(terms) if self.average else 1)}

    def compare(
        self, number: int, features: Tensor, hint: Tensor, step: Step, objects: Objects | None
    ) -> Tensor:
        """The loss of the pair of this number, of maps as the modules put them out."""
        if self.pairs[number].as_maps:
            image_size = tuple(step.inputs.shape[-2:])
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
            objects: The ground truth's boxes; None where the loss does not look at them.
        """
        more = () if objects is None else (objects,)
        return self.pair_losses[number](features, hint, *more)

    def _maps(self, calls: Callable[[str], list[Any]], full_name: str) -> list[Tensor]:
        name, level = split_level(full_name)
        try:
            return levels_of(calls(name), level)
        except ConfigError as error:
            raise self.mistake(f"{full_name!r}: {error}") from error

    def _check_gradients(self, own: Sequence[Tensor], step: Step) -> None:
        """Refuse maps of the student that carry no gradient, pair by pair; nothing else would say so.

        A few attributes a step, and more than that only where one lacks a gradient.

        Raises:
            UnsupportedError: names the module, and why it cannot learn.
        """
        if not torch.is_grad_enabled() or all(features.requires_grad for features in own):
            return
        # In a phase in which all of the student rests, connectors may learn without it.
        if not any(parameter.requires_grad for parameter in step.student.parameters()):
            return
        for pair, features in zip(self.pairs, own, strict=True):
            if features.requires_grad:
                continue
            name = split_level(pair.student)[0]
            captured = levels_of(step.outputs.calls(name))
            if _trains(step.student, name) and not any(other.requires_grad for other in captured):
                raise UnsupportedError(
                    f"{type(self).__name__}: what {name!r} puts out has no gradient: a module inside of a checkpointed "
                    "block (with_cp=True) cannot be taught; name the whole stage, such as 'backbone.layer3'."
                )
            frozen = pair.student if len(captured) > 1 else name
            raise UnsupportedError(
                f"{type(self).__name__}: {frozen!r} of the student is frozen (frozen_stages) and cannot learn: name a "
                "later stage, such as 'backbone.layer3', or only the later maps, such as 'backbone[2]'."
            )


def _trains(model: nn.Module, name: str) -> bool:
    """Whether a module has weights that train; for one without any (ReLU) what holds it is asked."""
    parameters = list(find_module(model, name).parameters())
    if not parameters and "." in name:
        return _trains(model, name.rpartition(".")[0])
    return any(parameter.requires_grad for parameter in parameters)


def _numbered(name: str, number: int) -> str:
    """A map's own name: ``'neck'`` and 2 make ``'neck[2]'``."""
    return name if split_level(name)[1] is not None else f"{name}[{number}]"


def channels_of(features: Tensor) -> int:
    """The channels of a map (N, C, H, W), or of features (N, L, C) and (N, C)."""
    return features.shape[1 if features.dim() == 4 else -1]


def stride_of(features: Tensor) -> int:
    """Pixels of the dry run's image a cell of a map (N, C, H, W)."""
    return DRY_RUN_SIZE[0] // features.shape[2]


def as_map(features: Tensor, image_size: tuple[int, int]) -> Tensor:
    """A map (N, C, H, W), made of a sequence of tokens (N, L, C) if need be.

    Raises:
        UnsupportedError: neither a map nor a sequence that is one.
    """
    if features.dim() == 3:
        return tokens_to_map(features, image_size)
    if features.dim() != 4:
        raise UnsupportedError(
            f"features of shape {tuple(features.shape)} are neither a map (N, C, H, W) nor a sequence (N, L, C)"
        )
    return features


def adapt(connector: nn.Module, features: Tensor, hint: Tensor) -> Tensor:
    """The student's features with the channels and the resolution of the teacher's ``hint``."""
    adapted = connector(features)
    return match_size(adapted, hint.shape[-2:]) if hint.dim() == 4 else adapted


def objects_of(step: Step) -> Objects:
    """The ground truth of a batch, the boxes of all images in one tensor."""
    bboxes = [get_box_tensor(sample.gt_instances.bboxes) for sample in step.data_samples]
    device = step.inputs.device
    # Sizes live on the host: no wait.
    counts = torch.tensor([len(boxes) for boxes in bboxes])
    images = torch.arange(len(bboxes)).repeat_interleave(counts, output_size=sum(map(len, bboxes)))
    return Objects(
        torch.cat(bboxes).to(device),
        images.to(device, non_blocking=True),
        tuple(step.inputs.shape[-2:]),
    )
