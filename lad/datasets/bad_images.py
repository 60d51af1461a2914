"""Loading of images with a policy for those that cannot be read."""

from __future__ import annotations

import logging
from typing import Any

from lad.datasets.images import size_problem
from lad.errors import ConfigError, DataError

from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine.fileio import get
from mmengine.logging import print_log


@TRANSFORMS.register_module()
class LoadCheckedImageFromFile(LoadImageFromFile):
    """``LoadImageFromFile`` that names an image it cannot load, or skips it so that another one is loaded.

    An image whose size is not that of its annotations is none that can be loaded: its boxes would lie elsewhere.
    Decoding turns photographs by their EXIF orientation, which many tools for annotations do not.

    MMCV's option ``ignore_empty`` skips files that cannot be opened, without a warning, but not those that cannot be
    decoded.

    Args:
        on_error: ``'stop'``, or ``'skip'``: a warning, and the data set takes another image at random.
        max_skips: Number of images that each data-loading process may skip; one more stops the run.
        kwargs: As for ``LoadImageFromFile``.

    Raises:
        ConfigError: another ``on_error``.
        DataError: while loading.
    """

    def __init__(self, on_error: str = "stop", max_skips: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if on_error not in ("stop", "skip"):
            raise ConfigError(
                f"LoadCheckedImageFromFile: on_error must be 'stop' or 'skip', got {on_error!r}."
            )
        self.on_error = on_error
        self.max_skips = max_skips
        self.skipped = 0

    def transform(self, results: dict) -> dict | None:
        """Load an image; returns None if it is skipped."""
        try:
            loaded = super().transform(results)
            if loaded is not None:
                self._check_size(loaded)
            return loaded
        except Exception as error:  # storage backends and decoders may raise anything
            reason = " ".join(str(error).split())[:200]
            message = f"image {results.get('img_id')} ({results['img_path']}) cannot be loaded: {reason}"
            if self.on_error == "stop":
                raise DataError(
                    f"{message}; mend it or take it out of the annotations (`lad check` lists all), or "
                    "leave such images out with bad_data.images=skip."
                ) from error
            self.skipped += 1
            if self.skipped > self.max_skips:
                raise DataError(
                    f"{message}; this process has skipped {self.max_skips} images: run `lad check`."
                ) from error
            print_log(
                f"{message}; another is taken ({self.skipped} skipped by this process).",
                logger="current",
                level=logging.WARNING,
            )
            return None

    def _check_size(self, results: dict) -> None:
        shape, height, width = results["img_shape"], results.get("height"), results.get("width")
        if not width or not height or shape == (height, width):
            return
        content = get(results["img_path"], backend_args=self.backend_args)
        raise DataError(size_problem(content, shape, width, height))


def check_image_loading(config: Any, on_error: str) -> None:
    """Replace ``LoadImageFromFile`` by :class:`LoadCheckedImageFromFile`, in place, at any depth of a config.

    Args:
        config: A data loader's or hook's config.
        on_error: ``'stop'`` or ``'skip'``.
    """
    if isinstance(config, dict):
        if config.get("type") in ("LoadImageFromFile", "mmdet.LoadImageFromFile", LoadImageFromFile):
            config["type"] = "LoadCheckedImageFromFile"
            config["on_error"] = on_error
        for value in config.values():
            check_image_loading(value, on_error)
    elif isinstance(config, (list, tuple)):
        for value in config:
            check_image_loading(value, on_error)
