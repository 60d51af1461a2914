"""Random views of each image, for learning without labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from lad.datasets.configured import datasets_of
from lad.errors import ConfigError

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from torch import Tensor
from torchvision.transforms import v2

#: Names of the two views, which are the branches of ``MultiBranchDataPreprocessor``.
VIEWS = ("first", "second")
#: Name of the view of another image that goes with them if it is asked for.
REFERENCE = "reference"


@DATASETS.register_module()
class ViewsDataset:
    """Data set that gives two random views of each image of another one, for ``MultiBranchDataPreprocessor``.

    A view is a random resized crop, flipped with probability 1/2, with changed colours, and blurred with probability
    1/2: the transforms of SimCLR (Chen et al., ICML 2020, arXiv 2002.05709, Appendix A), as torchvision has them. They
    draw from torch's generator, which the training loops of this package seed for each sample, so that a resumed run
    sees the views of an undisturbed one. Labels are not passed on.

    With ``references=True`` a view of another image, drawn at random, goes with them: what the image is compared with.

    Args:
        dataset: Config of the data set, whose pipeline loads the image alone (the default); wrappers such as
            ``ConcatDataset`` work too.
        size: Height and width of a view in pixels, or a number for both.
        scale: Smallest and largest part of the image's area that a crop shows.
        flip: Probability of a horizontal flip.
        colour: Strength of the change of brightness, contrast and saturation (0.8 times) and hue (0.2 times), which is
            made with probability 0.8.
        grey: Probability of a grey view.
        blur: Probability of a Gaussian blur with a sigma of 0.1 to 2 pixels.
        references: Whether a view of another image goes with the two.
        lazy_init: As for MMEngine's wrappers.

    Raises:
        ConfigError: a setting is out of range, the pipeline gives no image, or there is no other image.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        size: int | Sequence[int] = 224,
        scale: Sequence[float] = (0.2, 1.0),
        flip: float = 0.5,
        colour: float = 1.0,
        grey: float = 0.2,
        blur: float = 0.5,
        references: bool = False,
        lazy_init: bool = False,
    ) -> None:
        self.size = _checked_size(size)
        _check_probabilities(flip=flip, grey=grey, blur=blur)
        if not 0 <= colour <= 2:
            raise ConfigError(f"ViewsDataset: colour must be from 0 to 2, got {colour!r}.")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(
                f"ViewsDataset: scale must be like (0.2, 1.0), parts of the area; got {scale!r}."
            )
        if isinstance(dataset, dict):
            config = copy.deepcopy(dataset)
            # Wrappers have none; what they wrap loads the images.
            for innermost in datasets_of(config):
                innermost.setdefault("pipeline", [dict(type="LoadCheckedImageFromFile")])
            dataset = DATASETS.build(config)
        self.dataset = dataset
        self.references = references
        # A tenth of the side, and odd.
        kernel = max(3, min(self.size) // 10 // 2 * 2 + 1)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(self.size, scale=tuple(scale), antialias=True),
                v2.RandomHorizontalFlip(flip),
                v2.RandomApply([v2.ColorJitter(*3 * [0.8 * colour], 0.2 * colour)], p=0.8),
                v2.RandomGrayscale(grey),
                v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=blur),
            ]
        )
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Of the data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the list of images."""
        self.dataset.full_init()
        if self.references and all(self._path(number) == self._path(0) for number in range(len(self))):
            raise ConfigError(
                "ViewsDataset: references=True shows another image beside each, and the data set has "
                f"{min(len(self), 1)}; leave it out or add images."
            )

    def get_data_info(self, idx: int) -> dict:
        """What the data set knows of an image."""
        return self.dataset.get_data_info(idx)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict[str, dict[str, Any]]:
        """``inputs``, (C, H, W) uint8 in the image's order of channels, and ``data_samples`` of each view by name."""
        image, known = self._load(idx)
        items = {name: self._view(image, known) for name in VIEWS}
        if self.references:
            items[REFERENCE] = self._view(*self._load(self._other(idx)))
        inputs, samples = ({name: item[part] for name, item in items.items()} for part in (0, 1))
        return dict(inputs=inputs, data_samples=samples)

    def _other(self, idx: int) -> int:
        """The number of another image, each as likely; a data set may have an image several times."""
        own = self._path(idx)
        while True:
            other = int(torch.randint(len(self) - 1, ()))
            other += other >= idx % len(self)
            if self._path(other) != own:
                return other

    def _path(self, idx: int) -> Any:
        return self.get_data_info(idx).get("img_path", idx)

    def _load(self, idx: int) -> tuple[Tensor, dict[str, Any]]:
        """An image, (C, H, W), and what is known of it."""
        loaded = self.dataset[idx]
        if not isinstance(loaded.get("img"), np.ndarray):
            raise ConfigError(
                "ViewsDataset: the pipeline of its dataset must load the image and do nothing else, as "
                "[dict(type='LoadImageFromFile')] does: take out what packs or crops."
            )
        known = {key: loaded[key] for key in ("img_id", "img_path", "ori_shape") if key in loaded}
        return _as_tensor(loaded["img"]), known

    def _view(self, image: Tensor, known: dict[str, Any]) -> tuple[Tensor, DetDataSample]:
        # The transforms expect red first, and MMCV decodes blue first.
        view = self.transform(image.flip(0)).flip(0)
        return view, DetDataSample(metainfo=dict(known, img_shape=tuple(view.shape[-2:])))


def _as_tensor(image: np.ndarray) -> Tensor:
    """(C, H, W), of an image (H, W) or (H, W, C)."""
    image = image if image.ndim == 3 else image[..., None]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _checked_size(size: Any) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and side >= 32 for side in pair):
        raise ConfigError(
            f"ViewsDataset: size must be height and width of at least 32 pixels, like (224, 224); got {size!r}."
        )
    return pair


def _check_probabilities(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"ViewsDataset: {name} must be a probability, from 0 to 1; got {value!r}.")
