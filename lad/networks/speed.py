"""Options that make the forward pass of a frozen teacher cheaper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from lad.errors import ConfigError

import torch
from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn
from mmdet.models.detectors import BaseDetector

#: The parts of a detector that ``compile`` compiles.
COMPILED = ("backbone", "neck")


def uncompiled() -> AbstractContextManager:
    """A context in which compiled modules run eagerly, which is faster for a single small image.

    Before PyTorch 2.6, which has no such setting, they are compiled.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")


@dataclass(frozen=True)
class TeacherSpeed:
    """Options of a teacher that is never trained; all off by default, because each changes rounding.

    Attributes:
        inference_mode: Run under ``torch.inference_mode``. Only for methods that do not compare the teacher's tensors
            with the student's in a loss, such as label assignment: autograd cannot save what it returns.
        fuse: Fold each batch norm into the convolution before it. Modules called ``bn`` then pass their input on, so
            methods that read them cannot use it.
        channels_last: Lay images and weights out channel by channel for each pixel, which GPUs' tensor cores prefer.
        bfloat16: Run under bfloat16 autocast.
        compile: ``torch.compile`` backbone and neck; costs a minute at the first batch, and again at other image sizes.
    """

    inference_mode: bool = False
    fuse: bool = False
    channels_last: bool = False
    bfloat16: bool = False
    compile: bool = False

    @classmethod
    def from_config(cls, config: dict | None) -> TeacherSpeed:
        """Raises ConfigError for an option that does not exist."""
        try:
            return cls(**(config or {}))
        except TypeError as error:
            options = ", ".join(cls.__dataclass_fields__)
            raise ConfigError(f"teacher: speed takes {options}; got {sorted(config or ())}.") from error

    def prepare(self, model: BaseDetector) -> BaseDetector:
        """Change a frozen model in eval mode accordingly, in place where possible."""
        if self.fuse:
            model = fuse_conv_bn(model)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if self.compile:
            for name in COMPILED:
                if hasattr(model, name):
                    getattr(model, name).compile()
        return model

    def precision(self, device: torch.device) -> AbstractContextManager:
        """The context of the teacher's own precision; without one, of whatever precision the training has."""
        return torch.autocast(device.type, dtype=torch.bfloat16) if self.bfloat16 else nullcontext()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """The context in which the teacher runs, without gradient."""
        with torch.inference_mode() if self.inference_mode else torch.no_grad(), self.precision(device):
            yield
