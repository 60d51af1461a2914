"""Distance of batch statistics from those that batch norm layers have stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norm layers of a model that have running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    ]


def channel_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, as batch norm computes them for its running statistics.

    Args:
        values: (N, C, ...), the input of a batch norm layer.

    Returns:
        (C,) mean; (C,) variance with Bessel's correction (0 for a single value).
    """
    dims = [dim for dim in range(values.dim()) if dim != 1]
    count = values.numel() // max(values.shape[1], 1)
    var, mean = torch.var_mean(values.float(), dim=dims, correction=int(count > 1))
    return mean, var


class StatisticsDistance:
    """Distances between the statistics of what batch norm layers get and their running statistics.

    R_l = ||mean(x_l) - running_mean_l||_2 + ||var(x_l) - running_var_l||_2 for the input x_l of layer l (Yin et al.,
    "Dreaming to Distill" (DeepInversion), CVPR 2020, arXiv 1912.08795, Eq. 4). A layer that is called several times
    for a batch, as a head on every level of a pyramid, has the mean of its calls' statistics: its running ones are an
    average over calls too.

    Args:
        model: A network; its layers are observed and not changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = batch_norms(model)
        self._calls: dict[_BatchNorm, list[tuple[Tensor, Tensor]]] = {}

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record what the layers get in forward passes within the block; an earlier record is dropped."""
        self._calls = {}
        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.callback(layer.register_forward_pre_hook(self._observe).remove)
            yield

    def _observe(self, layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        self._calls.setdefault(layer, []).append(channel_statistics(inputs[0]))

    def distances(self) -> Tensor:
        """(L,) distance R_l of each layer that was called, in the order of their first calls; differentiable.

        Raises:
            RuntimeError: nothing was recorded.
        """
        if not self._calls:
            raise RuntimeError("no batch norm layer was called within `record`")
        return torch.stack([self._distance(layer, calls) for layer, calls in self._calls.items()])

    def _distance(self, layer: _BatchNorm, calls: list[tuple[Tensor, Tensor]]) -> Tensor:
        mean, var = (torch.stack(values).mean(dim=0) for values in zip(*calls, strict=True))
        assert layer.running_mean is not None  # see `batch_norms`
        assert layer.running_var is not None
        return torch.linalg.vector_norm(mean - layer.running_mean) + torch.linalg.vector_norm(
            var - layer.running_var
        )
