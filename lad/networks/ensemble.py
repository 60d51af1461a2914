"""Ensembles of teachers: several combined into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from lad.base.capture import Outputs, levels_of
from lad.errors import ConfigError, UnsupportedError
from lad.heads.objectness_head import ObjectnessPAAHead
from lad.networks.forward import DENSE_HEADS
from lad.networks.frozen import FrozenTeacher
from lad.networks.speed import TeacherSpeed
from lad.networks.view import TeacherView

import torch
from mmdet.models.dense_heads import AutoAssignHead, TOODHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

if TYPE_CHECKING:
    from lad.networks.peer import PeerTeacher

Combination = Literal["average", "attention"]

#: The heads that predict class logits.
WEIGHABLE = (*DENSE_HEADS, "roi_head")

#: Heads whose class scores cannot be weighed as logits, and why.
NO_LOGITS: dict[type[nn.Module], str] = {
    TOODHead: "predicts probabilities",
    ObjectnessPAAHead: "predicts probabilities",
    YOLOXHead: "predicts an objectness beside its class logits",
    AutoAssignHead: "predicts an objectness beside its class logits",
}


def average(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape, in their precision; the first of those that are no real numbers."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack(tuple(tensors)).mean(dim=0)


def attend(logits: Sequence[Tensor]) -> Tensor:
    """Combine class logits of several teachers by attention to the most confident one, class by class and position
    by position.

    With K teachers' logits z_k: sum over k of a_k z_k with a = softmax over k of z, for each class at each position. A
    teacher that detects an object of the class there dominates; where none does it is nearly the average. (Ours: the
    attention of a teacher is its confidence for the class. Zhang et al., ICASSP 2022, arXiv 2201.00007, weigh
    teachers by their confidence for the true class, sample by sample, which needs a label at each position.)

    Args:
        logits: Each teacher's, of one shape: of a sigmoid, or log-probabilities of a softmax.
    """
    stacked = torch.stack(tuple(logits))
    return (stacked.softmax(dim=0) * stacked).sum(dim=0)


def combine(outputs: Sequence[Any], combination: Combination = "average") -> Any:
    """Combine outputs of several teachers into one.

    Args:
        outputs: Each teacher's: a tensor, or any nesting of lists, tuples and dicts of tensors; alike for all.
        combination: ``'average'``: the mean of the outputs as they are: of logits where a head's
            outputs are logits, of probabilities where they are probabilities (TOOD, COP), and of class logits and
            objectness each by itself where there are both (YOLOX, AutoAssign). ``'attention'``: they are a head's
            outputs, the first of which are class logits: these are attended to (:func:`attend`), and the others
            averaged.

    Raises:
        UnsupportedError: the outputs differ in structure or shape.
    """
    if combination == "attention":
        first, *others = zip(*outputs, strict=True)
        return (_each(attend, first), *(_each(average, other) for other in others))
    return _each(average, outputs)


def _each(function: Callable[[Sequence[Tensor]], Tensor], outputs: Sequence[Any]) -> Any:
    flat, structures = zip(*map(tree_flatten, outputs), strict=True)
    shapes = [tree_map(lambda leaf: getattr(leaf, "shape", None), leaves) for leaves in flat]
    if any(structure != structures[0] for structure in structures) or any(own != shapes[0] for own in shapes):
        raise UnsupportedError(
            "the outputs of an ensemble's teachers differ in shape: they must have as many maps with as many channels."
        )
    leaves = [function(leaf) if isinstance(leaf[0], Tensor) else leaf[0] for leaf in zip(*flat, strict=True)]
    return tree_unflatten(leaves, structures[0])


class _CombinedOutputs(Outputs):
    """Outputs of several teachers' modules, combined when they are first read."""

    def __init__(self, members: Sequence[Outputs], combination: Combination) -> None:
        super().__init__()
        self._members = members
        self._combination = combination

    @torch.no_grad()
    def calls(self, name: str) -> list[Any]:
        """Every output of a module, one an element for each call."""
        if name not in self._calls:
            calls = [member.calls(name) for member in self._members]
            self._calls[name] = [combine(same, self._combination) for same in zip(*calls, strict=True)]
        return self._calls[name]


class EnsembleView(TeacherView):
    """Combined view of several teachers on one batch.

    Args:
        views: Each teacher's.
        combination: See :func:`combine`.
    """

    is_ensemble = True

    def __init__(self, views: Sequence[TeacherView], combination: Combination) -> None:
        self._views = tuple(views)
        self._combination = combination

    @property
    def model(self) -> BaseDetector:
        """The first teacher, for its heads' settings, which all share."""
        return self._views[0].model

    @property
    def outputs(self) -> Outputs:
        """Combined outputs of the modules that methods read."""
        if "_outputs" not in self.__dict__:
            self._outputs = _CombinedOutputs([view.outputs for view in self._views], self._combination)
        return self._outputs

    def target(self, module: str) -> list[Any]:
        """See :meth:`TeacherView.target`."""
        return self.outputs.calls(module)

    @torch.no_grad()
    def evaluate(self, function: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`TeacherView.evaluate`; the results of all teachers, combined."""
        return combine([view.evaluate(function, *args) for view in self._views], self._combination)

    def forward_through(self, function: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`TeacherView.forward_through`; the results of all teachers, combined."""
        return combine([view.forward_through(function, *args) for view in self._views], self._combination)

    @torch.no_grad()
    def outputs_of(self, images: Sequence[int], module: str) -> Any:
        """See :meth:`TeacherView.outputs_of`."""
        return combine([view.outputs_of(images, module) for view in self._views], self._combination)


class TeacherEnsemble:
    """Several teachers combined into the one that a method binds to.

    Args:
        members: The teachers by name, the first of which gives the settings of heads.
        combination: ``'average'`` or ``'attention'``; see :func:`combine`.

    Raises:
        ConfigError: the combination is unknown, or the teachers know other classes.
    """

    def __init__(self, members: Mapping[str, FrozenTeacher | PeerTeacher], combination: Combination) -> None:
        if combination not in get_args(Combination):
            raise ConfigError(
                f"ensemble must be one of {', '.join(get_args(Combination))}, got {combination!r}."
            )
        self.members = dict(members)
        self.combination = combination
        known = {
            name: teacher.classes for name, teacher in self.members.items() if teacher.classes is not None
        }
        if len(set(known.values())) > 1:
            raise ConfigError(
                f"the teachers {' and '.join(known)} were trained on other classes, or on the same in another order: "
                "they cannot teach as one; give each a method of its own (taught_by)."
            )
        self.classes = next(iter(known.values()), None)

    # Not attributes: a copy (EMA) shares its members' networks, and would copy what it holds itself.

    @property
    def _first(self) -> FrozenTeacher | PeerTeacher:
        return next(iter(self.members.values()))

    @property
    def model(self) -> BaseDetector:
        """The first teacher, for its heads' settings, which all share."""
        return self._first.model

    @property
    def config(self) -> dict | None:
        """The first teacher's config."""
        return self._first.config

    @property
    def speed(self) -> TeacherSpeed:
        """The first teacher's speed options."""
        return self._first.speed

    def check_modules(self, modules: Iterable[str]) -> None:
        """Refuse modules that not every teacher has, or whose outputs do not correspond.

        Raises:
            ConfigError: a teacher has no such module.
            UnsupportedError: its outputs cannot be combined.
        """
        modules = tuple(modules)
        for member in self.members.values():
            member.check_modules(modules)
        first, *others = self.members
        outputs = {name: member.dry_run(modules) for name, member in self.members.items()}
        for module in modules:
            shapes = {
                name: [map_.shape for map_ in levels_of(out.calls(module))] for name, out in outputs.items()
            }
            for other in others:
                if shapes[other] != shapes[first]:
                    raise UnsupportedError(
                        f"the teachers {first!r} and {other!r} cannot teach as one: {module!r} returns "
                        f"{_described(shapes[first])} and {_described(shapes[other])}; give each a method of its own."
                    )

    def check_weighable(self, modules: Iterable[str]) -> None:
        """Refuse modules that ``'attention'`` cannot combine.

        Args:
            modules: What a method learns from.

        Raises:
            UnsupportedError: a module is no head, or predicts something else than class logits.
        """
        if self.combination != "attention":
            return
        if other := [name for name in modules if name not in WEIGHABLE]:
            raise UnsupportedError(
                f"ensemble='attention' weighs the class logits of {', '.join(WEIGHABLE)}, and this method reads "
                f"{', '.join(other)}; use ensemble='average'."
            )
        for member in self.members.values():
            for name in modules:
                _check_weighable(name, getattr(member.model, name))

    def check_units(self, modules: Iterable[str]) -> None:
        """Refuse heads whose predictions mean different things, though they have the same shapes.

        Args:
            modules: The heads that a method learns from; a teacher need not have them all.

        Raises:
            UnsupportedError: anchors or box deltas are other ones.
        """
        first, *others = self.members
        modules = tuple(modules)
        settings = {name: _units(member.model, modules) for name, member in self.members.items()}
        for other in others:
            for name in sorted(settings[first].keys() | settings[other].keys()):
                if settings[other].get(name) != settings[first].get(name):
                    raise UnsupportedError(
                        f"the teachers {first!r} and {other!r} cannot teach as one: they have another {name}; "
                        "give each a method of its own."
                    )

    def dry_run(self, modules: Iterable[str]) -> Outputs:
        """Outputs of the modules for zero images; all teachers' have the same shapes."""
        return next(iter(self.members.values())).dry_run(modules)


def _check_weighable(name: str, head: BaseDenseHead) -> None:
    """Refuse a dense head whose class scores are no logits of independent classes."""
    if not getattr(head, "use_sigmoid_cls", True):
        raise UnsupportedError(
            f"ensemble='attention' weighs class logits one by one, and the teachers' {name} has a softmax over the "
            "classes; use ensemble='average'."
        )
    for kind, reason in NO_LOGITS.items():
        if isinstance(head, kind):
            raise UnsupportedError(
                f"ensemble='attention' weighs teachers by their class logits, and the teachers' {name}, "
                f"{type(head).__name__}, {reason}; use ensemble='average'."
            )


def _units(model: BaseDetector, modules: Iterable[str]) -> dict[str, str]:
    """Settings of anchors and box coders by name, which turn a head's prediction into a box."""
    return {
        f"{root}.{name}.{part}".replace("..", "."): f"{type(made).__name__} {vars(made)}"
        for root in modules
        if isinstance(getattr(model, root, None), nn.Module)
        for name, module in getattr(model, root).named_modules()
        for part in ("prior_generator", "bbox_coder")
        if (made := getattr(module, part, None)) is not None
    }


def _described(shapes: Sequence[torch.Size]) -> str:
    return f"{len(shapes)} tensors {', '.join(str(tuple(shape)) for shape in shapes[:2])}{', ...' * (len(shapes) > 2)}"
