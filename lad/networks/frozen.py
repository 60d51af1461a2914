"""Frozen teachers: hidden from the owner, placed on its device, run once for each batch, without gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from lad.base.capture import Outputs, capture, find_module, root_of
from lad.errors import UnsupportedError
from lad.networks.dry_run import dry_run
from lad.networks.forward import DENSE_HEADS, HEADS, run_dense
from lad.networks.preprocessing import Renormalisation
from lad.networks.speed import COMPILED, TeacherSpeed

import torch
from mmdet.models.detectors import DetectionTransformer
from mmdet.structures import SampleList
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


class TeacherView:
    """What the teacher says of one batch; computed at the first question, once, without gradient."""

    #: Whether what it says is combined of what several teachers say.
    is_ensemble: bool = False

    def __init__(
        self,
        teacher: FrozenTeacher,
        inputs: Tensor,
        data_samples: SampleList,
        modules: Iterable[str],
        shared: bool = False,
    ) -> None:
        self._teacher = teacher
        self._inputs = inputs
        self._data_samples = data_samples
        self._modules = tuple(modules)
        self._shared = shared

    @property
    def model(self) -> nn.Module:
        """The teacher itself; for its heads' settings and losses."""
        return self._teacher.model

    @cached_property
    def outputs(self) -> Outputs:
        """The outputs of the modules that the methods listen to."""
        return self._teacher.run(self._inputs, self._data_samples, self._modules)

    def target(self, module: str) -> list[Any]:
        """What a module put out, one an element for each of its calls, as targets that a loss can take.

        Under ``inference_mode`` the teacher's tensors cannot be saved for a backward pass; these can.
        """
        return tree_map_only(Tensor, _ordinary, self.outputs.calls(module))

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """What some of the teacher's modules say of more than the images: of boxes, say.

        Args:
            function: Called with the teacher and :attr:`outputs`, then ``args``; without gradient, and under the
                teacher's speed options.
            args: Its further arguments.

        Returns:
            What the function returns, in tensors that a loss can take.
        """
        outputs = self.outputs
        with self._teacher.speed.running(self._inputs.device):
            answer = function(self.model, outputs, *args)
        return tree_map_only(Tensor, _ordinary, answer)

    def through(self, function: Callable[..., Any], *args: Any) -> Any:
        """What some of the teacher's modules make of the student's own tensors, with the gradient passing through.

        The teacher's parameters want no gradient and get none; what the student handed over does.

        Args:
            function: Called with the teacher, then ``args``, under the teacher's precision.
            args: Tensors of the student's, in any nesting, and whatever else it wants.

        Returns:
            What the function returns.
        """
        with self._teacher.speed.precision(self._inputs.device):
            return function(self.model, *args)

    def outputs_of(self, images: Sequence[int], module: str) -> Any:
        """What one module returns for some images of the batch, by their numbers.

        The teacher runs for these images alone, unless the whole batch is wanted anyway: by this question, or by
        another method that listens. What the module returns must be tensors with the images first.
        """
        if len(images) == len(self._data_samples):
            return self.outputs[module]
        if self._shared or "outputs" in self.__dict__:
            return tree_map_only(Tensor, lambda value: value[list(images)], self.outputs[module])
        samples = [self._data_samples[image] for image in images]
        return self._teacher.run(self._inputs[list(images)], samples, [module])[module]


def _ordinary(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


class FrozenTeacher:
    """A trained detector that is asked and never changed.

    Not an ``nn.Module``, so that the module that owns it does not register it: it appears in no parameter list,
    optimizer, checkpoint, EMA copy or DDP bucket. The owner forwards ``_apply`` to :meth:`move` so that the
    teacher follows ``.to()`` and ``.cuda()``. Copies (EMA) share the network, which is read-only, and do not move it.

    Args:
        model: The detector with its weights loaded.
        renormalisation: From the student's images to the teacher's.
        classes: The class names its checkpoint records, if any.
        config: The model config it was built from, for telling teachers apart.
        speed: How to make it cheaper.
    """

    def __init__(
        self,
        model: nn.Module,
        renormalisation: Renormalisation,
        classes: tuple[str, ...] | None = None,
        config: dict | None = None,
        speed: TeacherSpeed | None = None,
    ) -> None:
        self._is_copy = False
        self.config = config
        self.speed = speed or TeacherSpeed()
        self.model = self.speed.prepare(model.requires_grad_(False).eval())
        self.renormalisation = renormalisation
        self.classes = classes
        # Modules stay in eval mode (batch norm statistics, dropout); the flag of the detector and its heads alone
        # makes them return what a training student's heads return.
        self.model.training = True
        for name in HEADS:
            if isinstance(getattr(model, name, None), nn.Module):
                getattr(model, name).training = True

    def __deepcopy__(self, memo: dict) -> FrozenTeacher:
        twin = copy.copy(self)
        twin._is_copy = True
        return twin

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply what the owner's ``_apply`` applies: a device or dtype change.

        A copy does not move the network that it shares: an EMA model kept on the CPU would take it along.
        """
        if self._is_copy:
            return
        self.model._apply(function)
        self.renormalisation._apply(function)

    def look(
        self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str], shared: bool = False
    ) -> TeacherView:
        """A lazy view of one batch.

        Args:
            inputs: Images normalised for the student.
            data_samples: Their metadata.
            modules: Names of the modules whose outputs are wanted.
            shared: Whether several methods will ask.
        """
        return TeacherView(self, inputs, data_samples, modules, shared)

    def run(self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str]) -> Outputs:
        """Run no further than the named modules need and return their outputs; without gradient."""
        modules = tuple(modules)
        if not modules:
            return Outputs()
        with self.speed.running(inputs.device):
            return self._run(inputs, data_samples, modules)

    def _run(self, inputs: Tensor, data_samples: SampleList, modules: tuple[str, ...]) -> Outputs:
        inputs = self.renormalisation(inputs, data_samples)
        if self.speed.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        roots = set(map(root_of, modules))
        with capture(self.model, modules) as outputs:
            if roots <= {"backbone", "neck", *DENSE_HEADS}:
                run_dense(self.model, inputs, roots)
            else:
                self.model._forward(inputs, data_samples)
        return outputs

    def dry_run(self, modules: Iterable[str]) -> Outputs:
        """What modules put out for images of zeros, for the sake of the shapes; see :func:`dry_run`.

        Raises:
            UnsupportedError: nobody can listen to one of the modules.
        """
        self._check_audible(modules := tuple(modules))
        return dry_run(self.model, modules)

    def _check_audible(self, modules: Sequence[str]) -> None:
        """Refuse modules inside of compiled ones: what is compiled does not ask again who listens."""
        for name in modules if self.speed.compile else ():
            if "." in name and root_of(name) in COMPILED:
                raise UnsupportedError(
                    f"speed=dict(compile=True): {name!r} is inside of what is compiled, where nobody can listen: name "
                    f"{root_of(name)!r} itself, or leave out compile."
                )

    def check_modules(self, modules: Iterable[str]) -> None:
        """Refuse names that the teacher does not have, and what its later layers overwrite.

        Raises:
            ConfigError: names the module.
            UnsupportedError: nobody can listen to one of them.
        """
        modules = tuple(modules)
        for name in modules:
            find_module(self.model, name)
        self._check_audible(modules)
        if self.speed.inference_mode:
            # Its tensors do not count what is written to them: those of a dry run do.
            heads = () if isinstance(self.model, DetectionTransformer) else DENSE_HEADS
            inner = [
                name for name in modules if "." in name and root_of(name) in ("backbone", "neck", *heads)
            ]
            if inner:
                outputs = self.dry_run(inner)
                for name in inner:
                    outputs.calls(name)
