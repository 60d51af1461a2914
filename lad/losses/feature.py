"""Base class of losses that compare two feature maps."""

from __future__ import annotations

from dataclasses import dataclass

from lad.losses.weighted import WeightedLoss

from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The objects of a batch, for losses that use the ground truth.

    Attributes:
        bboxes: (G, 4) boxes of all images, x1, y1, x2, y2 in pixels of the batch's images.
        images: (G,) int64, the image of each box.
        image_size: Height and width of the batch's images, padding included, in pixels.
    """

    bboxes: Tensor
    images: Tensor
    image_size: tuple[int, int]


class FeatureLoss(WeightedLoss):
    """Base class of losses between a student's and a teacher's feature map, with what they require of them.

    It is called with ``(student, teacher)``, and with the :class:`Objects` of the batch where ``uses_objects``. Where
    ``sized``, it is built with the ``channels`` of the maps it will be given. A loss without these attributes, such as
    MMDetection's ``MSELoss``, takes features of one shape, whatever it is.

    A loss that is a sum over images is divided by their number, so that the mean of several processes is the value of
    the whole batch. Losses that relate images or take statistics over them document how far that holds.
    """

    #: Whether both must have as many channels.
    same_channels: bool = True
    #: Whether features must be maps (N, C, H, W); sequences (N, L, C) are then made maps.
    maps_only: bool = True
    #: Whether it takes any two features of the same images; they are then neither made maps nor brought to one size.
    any_shape: bool = False
    #: Whether it uses the ground truth.
    uses_objects: bool = False
    #: Whether it has weights of its own that depend on the number of channels.
    sized: bool = False
    #: The connector it is used with, if the config names none.
    connector: dict | None = None


def check_maps(student: Tensor, teacher: Tensor, same_channels: bool = True) -> None:
    """Check that both tensors are feature maps of one size.

    Raises:
        ValueError: they are not (N, C, H, W), or differ in more than what may differ.
    """
    fits = student.dim() == teacher.dim() == 4 and student.shape[2:] == teacher.shape[2:]
    fits = fits and len(student) == len(teacher) and not (same_channels and student.shape != teacher.shape)
    if not fits:
        raise ValueError(
            f"need maps (N, C, H, W) of one size, got {tuple(student.shape)} (student) and {tuple(teacher.shape)}"
        )
