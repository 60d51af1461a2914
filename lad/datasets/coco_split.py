"""Split a COCO file by images."""

from __future__ import annotations

from typing import Any

import numpy as np


def split_images(content: dict[str, Any], share: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the content of a COCO file at random into two of different images.

    Both have all categories and whatever else is in the file; order and ids stay.

    Args:
        content: With ``images`` and, unless it is of unlabelled images, ``annotations``.
        share: Of the images in the second part, in (0, 1); at least one image is in each.
        seed: Of the choice.

    Returns:
        The two contents.

    Raises:
        ValueError: there are fewer than two images, or the share is not in (0, 1).
    """
    images = content["images"]
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}.")
    if len(images) < 2:
        raise ValueError(f"{len(images)} images cannot be split.")
    number = min(max(round(share * len(images)), 1), len(images) - 1)
    second = set(np.random.default_rng(seed).permutation(len(images))[:number].tolist())

    def part(in_second: bool) -> dict[str, Any]:
        kept = [image for index, image in enumerate(images) if (index in second) == in_second]
        ids = {image["id"] for image in kept}
        own = dict(content, images=kept)
        if "annotations" in content:
            own["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
        return own

    return part(False), part(True)
