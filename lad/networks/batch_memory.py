"""The records that a teacher cache has for the images of one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lad.errors import UnsupportedError
from lad.networks.cache import FINGERPRINT, TeacherCache

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from torch import Tensor


class BatchMemory:
    """The records that a cache has for the images of one batch, and the place for new ones.

    Images without a fingerprint (a loss computed without the data preprocessor) are neither looked up nor kept.

    Args:
        cache: The cache.
        samples: The images of the batch.
        same_padding: Tell an image in a batch of one size from the same image in a batch of another.
        precision: In which the teacher would compute.
    """

    def __init__(
        self,
        cache: TeacherCache,
        samples: SampleList,
        same_padding: bool = False,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self._cache = cache
        self._keys = [sample.metainfo.get(FINGERPRINT) for sample in samples]
        # A teacher's outputs in mixed precision differ from those in full.
        salt = b"" if precision == torch.float32 else str(precision).encode()
        if same_padding:
            salt += repr(samples[0].metainfo.get("batch_input_shape")).encode()
        if salt:
            self._keys = [key and hashlib.sha256(key + salt).digest()[:16] for key in self._keys]
        self.records: list[bytes | None] = [
            cache.get(key, sample.metainfo.get("img_id")) if key is not None else None
            for key, sample in zip(self._keys, samples, strict=True)
        ]

    def remember(self, images: Sequence[int], records: Sequence[bytes]) -> None:
        """Store records of images, by their numbers in the batch."""
        for image, record in zip(images, records, strict=True):
            if self._keys[image] is not None:
                self._cache.put(self._keys[image], record)


def settings_of_images(owner: str, student: BaseDetector) -> tuple:
    """What an image that a detector is shown depends on beside its pixels as the data pipeline left them.

    Args:
        owner: Who keeps records, for the message.
        student: The detector.

    Raises:
        UnsupportedError: its data preprocessor changes images at random.
    """
    preprocessor = student.data_preprocessor
    if getattr(preprocessor, "batch_augments", None) is not None:
        raise UnsupportedError(
            f"{owner}: batch_augments change images after their fingerprints are taken, so the teacher cannot be "
            "cached: leave out `cache`, or do the same in the pipeline."
        )
    return (*(getattr(preprocessor, name, None) for name in ("mean", "std")), preprocessor.pad_size_divisor)


def precision_of(inputs: Tensor) -> torch.dtype:
    """The data type in which products of such inputs are computed: autocast's where it is on."""
    one = inputs.new_ones(1, 1)
    return (one @ one).dtype
