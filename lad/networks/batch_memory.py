"""The records that a teacher cache has for the images of one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lad.networks.cache import FINGERPRINT, TeacherCache

import torch
from mmdet.structures import SampleList
from torch import Tensor


class BatchMemory:
    """What a cache knows of the images of one batch, and where to put what it does not know.

    Images without a fingerprint (a loss computed without the data preprocessor) are neither looked up nor kept.

    Args:
        cache: What is known.
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
        # What a teacher says in mixed precision is not what it says in full.
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
        """Put records of images, by their numbers in the batch, into the cache."""
        for image, record in zip(images, records, strict=True):
            if self._keys[image] is not None:
                self._cache.put(self._keys[image], record)


def precision_of(inputs: Tensor) -> torch.dtype:
    """In what products of such inputs are computed here: autocast's precision where it is on."""
    one = inputs.new_ones(1, 1)
    return (one @ one).dtype
