"""Class-balanced sampling of images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lad.errors import DataError

from mmdet.datasets.samplers import ClassAwareSampler as _ClassAwareSampler
from mmdet.registry import DATA_SAMPLERS
from torch.utils.data import Dataset


# Under MMDetection's own name: configs change nothing.
@DATA_SAMPLERS.register_module(name="ClassAwareSampler", force=True)
class ClassAwareSampler(_ClassAwareSampler):
    """``ClassAwareSampler`` of MMDetection whose images are dealt to the processes in turn.

    It takes the classes in turn, in random order, and of each an image with an object of it; images without objects are
    never taken. An epoch has as many images as the data set. It balances images, not objects: what else is on an image
    comes along (:func:`lad.datasets.tail.balanced_objects`). MMDetection gives each process a part of the epoch; dealt
    in turn, as by its other samplers, several processes see the batches of one with the same total batch.

    Args:
        dataset: With ``get_cat_ids``.
        args, kwargs: As for MMDetection's ``ClassAwareSampler``.

    Raises:
        DataError: no image has an object.
    """

    rank: int
    world_size: int
    num_samples: int
    total_size: int

    def __init__(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        if not self.num_classes:
            raise DataError(
                f"ClassAwareSampler: none of the {len(self.dataset)} images of {type(dataset).__name__} has an object, "
                "so there is no class to sample: check the data set's classes (metainfo) and its annotation file, or "
                "take dict(type='DefaultSampler', shuffle=True)."
            )
        # The base's iterator then goes over the whole epoch.
        self._place = self.rank, self.world_size
        self.rank, self.num_samples = 0, self.total_size

    def __iter__(self) -> Iterator[int]:
        rank, world_size = self._place
        return islice(super().__iter__(), rank, None, world_size)

    def __len__(self) -> int:
        return self.total_size // self._place[1]
