"""Models that give dense features of images, as modules that return one map for each of their chosen layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from lad.base.settings import is_number
from lad.errors import CheckpointError, ConfigError, UnsupportedError
from lad.networks.fit import compare_state

import torch.nn.functional as F
from torch import Tensor, nn


class DenseFeatures(nn.Module):
    """Base of modules that give dense features of images: one map for each chosen layer.

    Images are brought to sides that the model can divide into its patches, by :func:`fit_images`.

    Args:
        layers: Numbers of the layers, from 0 or, from the last one back, from -1; in any order.
        image_scale: Factor of the images' size for this model.

    Attributes:
        net: The model.
        multiple: Sides of images must be multiples of so many pixels.
        mean, std: Normalisation of RGB images that the model was trained with, in pixel values from 0 to 255; None
            where the model does not tell.
    """

    net: nn.Module
    multiple: int = 1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __init__(self, layers: Sequence[int] = (-1,), image_scale: float = 1.0) -> None:
        super().__init__()
        is_list = isinstance(layers, Sequence) and not isinstance(layers, str)
        if not is_list or not layers or not all(type(layer) is int for layer in layers):
            raise ConfigError(
                f"FeatureTeacher: layers must be numbers of layers such as [-1] or [5, 11], got {layers!r}."
            )
        if not is_number(image_scale) or image_scale <= 0:
            raise ConfigError(f"FeatureTeacher: image_scale must be a positive number, got {image_scale!r}.")
        self.layers = tuple(layers)
        self.image_scale = image_scale

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps (n, C, H, W) of the chosen layers, in their order, for images (n, 3, H, W)."""
        return tuple(self.features(fit_images(images, self.multiple, self.image_scale)))

    @abstractmethod
    def features(self, images: Tensor) -> Sequence[Tensor]:
        """Maps of the chosen layers for images whose sides are multiples of :attr:`multiple`."""

    def load(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load weights that must fit the model key by key.

        Args:
            state: The weights by the model's own names.
            source: Where they come from, for messages.

        Raises:
            CheckpointError: names the keys.
        """
        if problem := compare_state(self.net, state).problem():
            raise CheckpointError(f"{source} is of {problem}; give the model that the file was saved from.")
        self.net.load_state_dict(state, strict=False)

    def numbered(self, count: int, owner: str) -> tuple[int, ...]:
        """The chosen layers, counted from 0.

        Args:
            count: How many layers the model has.
            owner: The model, for the message.

        Raises:
            ConfigError: there is no such layer.
        """
        for layer in self.layers:
            if not -count <= layer < count:
                raise ConfigError(f"{owner} has {count} layers, from 0 to {count - 1}; there is no {layer}.")
        return tuple(layer % count for layer in self.layers)


def fit_images(images: Tensor, multiple: int = 1, scale: float = 1.0) -> Tensor:
    """Resize images so that their sides are multiples of a patch, bilinearly.

    They are not padded: a map of patches must cover what the other detector's maps cover, no less and no more, for
    their positions to correspond. Images whose sides fit already stay as they are.

    Args:
        images: (n, C, H, W).
        multiple: Sides become the nearest multiples of so many pixels, and at least one.
        scale: Factor of the size before.
    """
    size = [max(1, int(side * scale / multiple + 0.5)) * multiple for side in images.shape[-2:]]
    if tuple(size) == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def tokens_of_patches(tokens: Tensor, grid: tuple[int, int], owner: str) -> Tensor:
    """The map of a vision transformer's tokens, without what stands before those of the patches.

    Class and register tokens stand first; the tokens of the patches follow row by row.

    Args:
        tokens: (n, L, C).
        grid: Rows and columns of patches.
        owner: The model, for the message.

    Returns:
        (n, C, rows, columns).

    Raises:
        UnsupportedError: there are fewer tokens than patches.
    """
    patches = grid[0] * grid[1]
    if tokens.shape[1] < patches:
        raise UnsupportedError(
            f"{owner} returns {tokens.shape[1]} tokens for {grid[0]} x {grid[1]} patches: it keeps no token of each."
        )
    return tokens[:, tokens.shape[1] - patches :].transpose(1, 2).unflatten(2, grid)
