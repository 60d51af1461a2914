"""Split a COCO file among the clients of a federation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from lad.datasets.coco_needs import ID
from lad.errors import DataError, listed, nearest

import numpy as np

Content = dict[str, Any]
#: What a tool that splits a file needs of its entries (:func:`lad.datasets.coco_needs.read_needed`).
NEEDS = dict(
    images=dict(id=ID), annotations=dict(image_id=ID, category_id=ID), categories=dict(id=ID, name=ID)
)


def split_by_classes(content: Content, classes: Mapping[str, Sequence[str]], seed: int) -> dict[str, Content]:
    """Each client gets an equal random part of the images, and the annotations of its own classes on them.

    A client that annotates some classes alone keeps its other images and objects unannotated, as it would.

    Args:
        content: Of a COCO file.
        classes: The class names that each client annotates.
        seed: Of the choice of images.

    Returns:
        The content for each client; all have all categories.

    Raises:
        DataError: a class is in no category, or there are fewer images than clients.
    """
    numbers = {category["name"]: category["id"] for category in content["categories"]}
    for client, names in classes.items():
        for name in names:
            if name not in numbers:
                raise DataError(
                    f"client {client}: there is no class {name!r}{nearest(name, numbers)}; the file has "
                    f"{listed(list(numbers), 10)}."
                )
    _check_enough(content, len(classes))
    order = np.random.default_rng(seed).permutation(len(content["images"]))
    parts = np.array_split(order, len(classes))
    own = {
        client: _part(content, {int(index) for index in part}, {numbers[name] for name in names})
        for (client, names), part in zip(classes.items(), parts, strict=True)
    }
    return own


def split_by_dirichlet(
    content: Content, clients: Sequence[str], alpha: float, seed: int
) -> dict[str, Content]:
    """Clients whose classes are unevenly distributed: for each class their shares are drawn from Dir(alpha).

    An image counts for the class that most of its objects have (images without objects are a class of their own), and
    goes to one client with all its annotations. The usual simulation of heterogeneous clients: Hsu et al., "Measuring
    the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019, arXiv 1909.06335, with
    the shares drawn class by class as FedNTD's authors do. Every client gets one image at least.

    Args:
        content: Of a COCO file.
        clients: Names.
        alpha: Concentration, above 0 and finite: small for one class a client, large for equal clients.
        seed: Of the draws.

    Returns:
        The content for each client; all have all categories.

    Raises:
        DataError: alpha is not positive and finite, or there are fewer images than clients.
    """
    if not (alpha > 0 and math.isfinite(alpha)):
        raise DataError(f"alpha must be above 0 and finite, got {alpha}.")
    _check_enough(content, len(clients))
    generator = np.random.default_rng(seed)
    main = _main_class(content)
    parts: list[list[int]] = [[] for _ in clients]
    for kind in sorted(set(main)):
        indices = generator.permutation([index for index, own in enumerate(main) if own == kind])
        shares = generator.dirichlet([alpha] * len(clients))
        ends = np.rint(np.cumsum(shares)[:-1] * len(indices)).astype(int)
        for part, more in zip(parts, np.split(indices, ends), strict=True):
            part.extend(more.tolist())
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return {client: _part(content, set(part)) for client, part in zip(clients, parts, strict=True)}


def split_by_folder(content: Content) -> dict[str, Content]:
    """Clients are the folders that images are in: of ``a/b/1.jpg`` the client is ``a``.

    Returns:
        The content for each folder, in alphabetical order.

    Raises:
        DataError: an image is in no folder, or all are in the same.
    """
    folders = []
    for image in content["images"]:
        if "file_name" not in image:
            raise DataError(f"image {image['id']} has no file_name: clients cannot be told by folders.")
        parts = PurePosixPath(str(image["file_name"]).replace("\\", "/")).parts
        if len(parts) < 2:
            raise DataError(
                f"image {image['file_name']!r} is in no folder: clients cannot be told by folders."
            )
        folders.append(parts[0])
    if len(set(folders)) < 2:
        raise DataError(f"all images are in the folder {folders[0]!r}: there is one client alone.")
    return {
        name: _part(content, {index for index, own in enumerate(folders) if own == name})
        for name in sorted(set(folders))
    }


def _check_enough(content: Content, clients: int) -> None:
    if clients < 1 or len(content["images"]) < clients:
        raise DataError(f"{len(content['images'])} images cannot be split among {clients} clients.")


def _main_class(content: Content) -> list[int]:
    """The most frequent category of each image, of several the smallest; -1 without objects."""
    counts: dict[Any, Counter] = {image["id"]: Counter() for image in content["images"]}
    for one in content["annotations"]:
        if one["image_id"] in counts:
            counts[one["image_id"]][one["category_id"]] += 1
    return [
        min(own, key=lambda kind: (-own[kind], kind)) if own else -1
        for own in (counts[image["id"]] for image in content["images"])
    ]


def _part(content: Content, indices: set[int], categories: set[int] | None = None) -> Content:
    """The images of some indices, with their annotations, of some categories alone; order and ids stay."""
    images = [image for index, image in enumerate(content["images"]) if index in indices]
    ids = {image["id"] for image in images}
    annotations = [
        one
        for one in content["annotations"]
        if one["image_id"] in ids and (categories is None or one["category_id"] in categories)
    ]
    return dict(content, images=images, annotations=annotations)
