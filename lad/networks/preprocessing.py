"""Images normalised for one network, as another network expects them."""

from __future__ import annotations

from lad.errors import UnsupportedError

import torch
from mmdet.structures import SampleList
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn


class Renormalisation(nn.Module):
    """Images normalised for the student, as the teacher's own config would normalise them.

    Args:
        student: The student's data preprocessor.
        teacher: The teacher's data preprocessor.
    """

    def __init__(self, student: ImgDataPreprocessor, teacher: ImgDataPreprocessor) -> None:
        super().__init__()
        self.swap_channels = student._channel_conversion != teacher._channel_conversion
        self.pad_value = teacher.pad_value
        student_mean, student_std = _mean_std(student)
        teacher_mean, teacher_std = _mean_std(teacher)
        if self.swap_channels:
            student_mean, student_std = student_mean.flip(0), student_std.flip(0)
        self.register_buffer("scale", student_std / teacher_std, persistent=False)
        self.register_buffer("shift", (student_mean - teacher_mean) / teacher_std, persistent=False)
        self.is_identity = (
            not self.swap_channels
            and student.pad_value == teacher.pad_value
            and torch.equal(student_mean, teacher_mean)
            and torch.equal(student_std, teacher_std)
        )

    def forward(self, inputs: Tensor, data_samples: SampleList) -> Tensor:
        """Images of shape (N, 3, H, W), padding set to the teacher's pad value outside each ``img_shape``."""
        if self.is_identity:
            return inputs
        if self.swap_channels:
            inputs = inputs.flip(1)
        images = inputs * self.scale + self.shift
        shapes = torch.tensor([sample.img_shape[:2] for sample in data_samples])
        height, width = inputs.shape[-2:]
        if bool((shapes == shapes.new_tensor([height, width])).all()):  # sizes live on the host: no wait
            return images
        shapes = shapes.to(inputs.device, non_blocking=True)
        rows = torch.arange(height, device=inputs.device) < shapes[:, :1]
        columns = torch.arange(width, device=inputs.device) < shapes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, images, images.new_full((), self.pad_value))


def _mean_std(preprocessor: ImgDataPreprocessor) -> tuple[Tensor, Tensor]:
    if not isinstance(preprocessor, ImgDataPreprocessor):
        raise UnsupportedError(
            f"data preprocessor {type(preprocessor).__name__} is not an ImgDataPreprocessor; "
            "student and teacher need mean and std of images."
        )
    if preprocessor._enable_normalize:
        return preprocessor.mean.clone(), preprocessor.std.clone()
    return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
