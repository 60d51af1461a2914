"""Random state of python, numpy, torch and one device, to be restored within a step."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Within the class `torch` is the generator's state.
Device = torch.device


@dataclass(frozen=True)
class RandomState:
    """State of all random number generators that a training step draws from.

    Generators of accelerators keep their seed and offset on the host: neither capturing nor restoring waits.
    """

    python: Any
    numpy: Any
    torch: Tensor
    cuda: Tensor | None
    device: Device

    @classmethod
    def capture(cls, device: Device) -> RandomState:
        """The state as it is now.

        Args:
            device: Device of the tensors that are drawn, besides the CPU.
        """
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), cuda, device)

    def restore(self) -> None:
        """Set all generators to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
