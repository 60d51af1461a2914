"""Phases of a training: which parameters learn in each, and how the others are kept frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lad.base.progress import Progress
from lad.base.settings import is_whole
from lad.errors import ConfigError

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pretraining:
    """The modules that a method trains before the task begins, and for how long.

    Attributes:
        iters: Its length in iterations, or
        epochs: in epochs: exactly one of both.
        student: The student's modules that learn, by name. None: the student does not even run.
        adapters: The method's own modules that learn, by name; they rest from the task's first iteration on. Its other
            modules rest during pretraining.
    """

    iters: int | None = None
    epochs: int | None = None
    student: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()

    @classmethod
    def from_config(
        cls, config: dict | None, owner: str, student: Sequence[str] = (), adapters: Sequence[str] = ()
    ) -> Pretraining | None:
        """Parse ``pretrain=dict(iters=1000)`` or ``dict(epochs=1)``; None for None.

        Args:
            config: The setting.
            owner: The method's name, for messages.
            student, adapters: As above; the method knows them.

        Raises:
            ConfigError: it is neither, both, or no positive whole number.
        """
        if config is None:
            return None
        if not isinstance(config, dict) or len(config) != 1 or not set(config) <= {"iters", "epochs"}:
            raise ConfigError(
                f"{owner}: pretrain must be dict(iters=NUMBER) or dict(epochs=NUMBER), got {config!r}."
            )
        ((unit, length),) = config.items()
        if not is_whole(length) or length < 1:
            raise ConfigError(f"{owner}: pretrain {unit} must be a positive whole number, got {length!r}.")
        return cls(**{unit: length}, student=tuple(student), adapters=tuple(adapters))

    @property
    def length(self) -> str:
        """'100 iterations' or '2 epochs'."""
        count, unit = (self.iters, "iteration") if self.iters is not None else (self.epochs, "epoch")
        return f"{count} {unit}{'s' * (count != 1)}"

    @property
    def end(self) -> Progress:
        """Place of the task's first step."""
        return Progress(iteration=self.iters or 0, epoch=self.epochs or 0)

    def covers(self, iteration: int, epoch: int) -> bool:
        """Whether an iteration (of an epoch; both from 0) belongs to the pretraining."""
        return iteration < self.iters if self.iters is not None else epoch < (self.epochs or 0)


def within(roots: Iterable[nn.Module]) -> set[nn.Module]:
    """Modules and all that is in them."""
    return {module for root in roots for module in root.modules()}


@dataclass(frozen=True)
class Phase:
    """A part of a run: what learns in it and what rests.

    Attributes:
        is_pretraining: Whether it comes before the task.
        learning: The parameters that learn.
        resting: The others.
        resting_modules: The modules that are put into eval mode.
    """

    is_pretraining: bool
    learning: tuple[nn.Parameter, ...] = field(repr=False)
    resting: tuple[nn.Parameter, ...] = field(repr=False)
    resting_modules: tuple[nn.Module, ...] = field(repr=False)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        is_pretraining: bool,
        resting: Iterable[nn.Module],
        flags: Iterable[nn.Module] = (),
    ) -> Phase:
        """The phase in which some of a model's modules rest, as the model is now.

        Args:
            model: The model.
            is_pretraining: Whether it comes before the task.
            resting: Those modules, each without what is in it.
            flags: Modules whose own training flag stays as it is though they rest: heads return something else in
                eval mode.
        """
        resting, flags = set(resting), set(flags)
        learning = {
            p for module in model.modules() if module not in resting for p in module.parameters(recurse=False)
        }
        # What holds a module that learns keeps its flag too: it is not its own.
        holders = {module for module in resting if not resting.issuperset(module.modules())}
        every = list(model.parameters())
        return cls(
            is_pretraining,
            tuple(parameter for parameter in every if parameter in learning),
            tuple(parameter for parameter in every if parameter not in learning),
            tuple(
                module for module in model.modules() if module in resting and module not in holders | flags
            ),
        )

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Compute a loss in which resting parts neither get gradients nor change their statistics."""
        flags = [module.training for module in self.resting_modules]
        trainable = [parameter for parameter in self.resting if parameter.requires_grad]
        try:
            for module in self.resting_modules:
                module.training = False
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, flag in zip(self.resting_modules, flags, strict=True):
                module.training = flag
            for parameter in trainable:
                parameter.requires_grad_(True)

    def reach_all(self, losses: dict[str, Any]) -> dict[str, Any]:
        """The same losses, one of which leads to every parameter that is to be trained some day.

        See :func:`reaching`.
        """
        name = next((key for key in losses if "loss" in key), None)
        if name is None:
            return losses
        term = losses[name]
        first = term[0] if isinstance(term, (list, tuple)) else term
        first = reaching(
            first,
            # The task reaches what learns by itself, as any training does.
            [p for p in self.learning if p.requires_grad] if self.is_pretraining else [],
            [p for p in self.resting if p.requires_grad],
        )
        return losses | {name: [first, *term[1:]] if isinstance(term, (list, tuple)) else first}

    def drop_gradients(self) -> None:
        """Take away what gradients resting parameters have, so that the optimizer passes them over."""
        for parameter in self.resting:
            parameter.grad = None


class _Reaching(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, learning: int, *parameters: Tensor) -> Tensor:
        ctx.learning = parameters[:learning]
        ctx.resting = len(parameters) - learning
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        zeros = [parameter.new_zeros(()).expand_as(parameter) for parameter in ctx.learning]
        return gradient, None, *zeros, *[None] * ctx.resting


def reaching(loss: Tensor, learning: Sequence[Tensor], resting: Sequence[Tensor]) -> Tensor:
    """The same loss, whose backward pass comes by every given parameter.

    DistributedDataParallel waits until each parameter that was trainable when it was built has been reached, and parts
    of a model are not reached in every phase. Parameters that learn get a gradient of zeros added to what they have, so
    that the optimizer (weight decay) treats them alike in one process and in several. Resting ones are reached without
    a gradient; in several processes the exchange makes zeros of it, which :meth:`Phase.drop_gradients` takes away.

    Args:
        loss: A scalar.
        learning: Parameters that learn.
        resting: Parameters that do not.
    """
    return _Reaching.apply(loss, len(learning), *learning, *resting)
