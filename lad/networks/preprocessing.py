"""Renormalise images from one network's mean, standard deviation and channel order to another's."""

from __future__ import annotations

from lad.errors import UnsupportedError

import torch
from mmdet.structures import SampleList
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

#: Recovered pixel values that are nearer to a whole number than this are whole: images are read as bytes.
PIXEL_TOLERANCE = 1e-4


class Renormalisation(nn.Module):
    """Renormalises images from the mean, standard deviation and channel order of one network to those of another.

    Mean and standard deviation are of one value for each channel, of one for all, or none.

    Args:
        source: Data preprocessor that normalised the images.
        target: Data preprocessor of the network that gets them.
        exact: Recover the pixel values first and normalise them anew, in the operations of MMEngine's data
            preprocessor: images of whole pixel values are then, to the bit, what ``target`` makes of them. Otherwise
            one multiplication and one addition, equal to rounding, which is cheaper.
        repeat: How often the channel of grey images is repeated, for a network that takes colour images; see
            :func:`lad.networks.channels.repeats_of_grey`.
    """

    scale: Tensor
    shift: Tensor
    source_mean: Tensor
    source_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        source: ImgDataPreprocessor,
        target: ImgDataPreprocessor,
        exact: bool = False,
        repeat: int = 1,
    ) -> None:
        super().__init__()
        self.repeat = repeat
        self.swap_channels = source._channel_conversion != target._channel_conversion
        self.pad_value = target.pad_value
        self.exact = exact
        source_mean, source_std, target_mean, target_std = torch.broadcast_tensors(
            *_mean_std(source), *_mean_std(target)
        )
        if self.swap_channels:
            source_mean, source_std = source_mean.flip(0), source_std.flip(0)
        if exact:
            for name, value in dict(
                source_mean=source_mean, source_std=source_std, target_mean=target_mean, target_std=target_std
            ).items():
                self.register_buffer(name, value, persistent=False)
        else:
            self.register_buffer("scale", source_std / target_std, persistent=False)
            self.register_buffer("shift", (source_mean - target_mean) / target_std, persistent=False)
        self.is_identity = (
            repeat == 1
            and not self.swap_channels
            and source.pad_value == target.pad_value
            and torch.equal(source_mean, target_mean)
            and torch.equal(source_std, target_std)
        )

    def forward(self, inputs: Tensor, data_samples: SampleList) -> Tensor:
        """Renormalise images (N, C, H, W); padding outside each ``img_shape`` gets the target's pad value.

        Returns:
            (N, repeat * C, H, W).
        """
        if self.is_identity:
            return inputs
        if self.repeat > 1:
            inputs = inputs.expand(-1, self.repeat, -1, -1)
        if self.swap_channels:
            inputs = inputs.flip(1)
        images = self._normalised_anew(inputs) if self.exact else inputs * self.scale + self.shift
        shapes = torch.tensor([sample.img_shape[:2] for sample in data_samples])
        height, width = inputs.shape[-2:]
        if bool((shapes == shapes.new_tensor([height, width])).all()):  # sizes live on the host: no wait
            return images
        shapes = shapes.to(inputs.device, non_blocking=True)
        rows = torch.arange(height, device=inputs.device) < shapes[:, :1]
        columns = torch.arange(width, device=inputs.device) < shapes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, images, images.new_full((), self.pad_value))

    def _normalised_anew(self, inputs: Tensor) -> Tensor:
        pixels = inputs * self.source_std + self.source_mean
        whole = pixels.round()
        pixels = torch.where((pixels - whole).abs() < PIXEL_TOLERANCE, whole, pixels)
        return (pixels - self.target_mean) / self.target_std


def _mean_std(preprocessor: ImgDataPreprocessor) -> tuple[Tensor, Tensor]:
    if not isinstance(preprocessor, ImgDataPreprocessor):
        raise UnsupportedError(
            f"data preprocessor {type(preprocessor).__name__} is not an ImgDataPreprocessor; "
            "student and teacher need mean and std of images."
        )
    if preprocessor._enable_normalize:
        return preprocessor.mean.clone(), preprocessor.std.clone()
    return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def check_same_batches(name: str, peer: nn.Module, deployed: nn.Module) -> None:
    """Refuse a peer whose batches are padded or augmented otherwise than the deployed network's, which it gets.

    Args:
        name: Name of the peer.
        peer: Its data preprocessor.
        deployed: The deployed network's.

    Raises:
        UnsupportedError: names the setting.
    """
    wanted, given = (getattr(each, "pad_size_divisor", 1) for each in (peer, deployed))
    if given % wanted:
        raise UnsupportedError(
            f"network {name} needs images padded to multiples of {wanted} and the deployed one pads to {given}: set "
            f"data_preprocessor=dict(pad_size_divisor={wanted}, ...) of the deployed network."
        )
    if getattr(peer, "batch_augments", None) and not getattr(deployed, "batch_augments", None):
        raise UnsupportedError(
            f"network {name} has batch_augments, which would not run: all networks get the deployed one's batches; "
            "give batch_augments to its data_preprocessor, or leave them out."
        )
