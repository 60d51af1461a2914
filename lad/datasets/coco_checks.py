"""Checks of the content of COCO annotation files that report all problems in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lad.datasets.coco_file import (
    AnnotationTable,
    hashable,
    is_finite,
    is_number,
    is_positive,
    labelled_names,
)
from lad.datasets.configured import first_difference
from lad.datasets.images import leaves_folder
from lad.datasets.masks import has_closed_polygons, mask_problem
from lad.datasets.problems import Problem
from lad.errors import listed

import numpy as np

#: Pixels that a box may extend beyond its image: COCO's own boxes do by rounding.
SLACK = 1.0

Report = Callable[..., None]


@dataclass(frozen=True)
class FileUse:
    """What an annotation file is used for, on which it depends what it must have.

    Attributes:
        loaded: A data set reads its images.
        annotated: A data set reads its annotations, to train on them or for its evaluator.
        labelled: A data set or an evaluator reads its categories.
        evaluated: COCO's evaluation compares detections with its annotations.
        masks: Masks are loaded: each object needs a ``segmentation``.
        evaluated_masks: Masks are evaluated.
        optional: Other files are trained on beside it, so that it may have no object.
    """

    loaded: bool = True
    annotated: bool = True
    labelled: bool = True
    evaluated: bool = False
    masks: bool = False
    evaluated_masks: bool = False
    optional: bool = False

    def __or__(self, other: FileUse) -> FileUse:
        return FileUse(
            loaded=self.loaded or other.loaded,
            annotated=self.annotated or other.annotated,
            labelled=self.labelled or other.labelled,
            evaluated=self.evaluated or other.evaluated,
            masks=self.masks or other.masks,
            evaluated_masks=self.evaluated_masks or other.evaluated_masks,
            optional=self.optional and other.optional,
        )

    @property
    def needs_annotations(self) -> bool:
        """Whether the file must have ``annotations``."""
        return self.evaluated or (self.annotated and not self.optional)


def check_coco(
    content: dict,
    file: str,
    classes: Sequence[str] | None = None,
    use: FileUse | None = None,
    table: AnnotationTable | None = None,
) -> list[Problem]:
    """Check the content of an annotation file.

    Args:
        content: Of :func:`read_coco`: ``images``, ``annotations``, ``categories``.
        file: Path of the file, for the problems.
        classes: The class names that a config trains on, if known.
        use: What the file is used for; by default a data set is trained on it.
        table: The annotations as columns, where the caller has them.
    """
    use = use or FileUse()
    table = table or AnnotationTable.of(content)
    problems: list[Problem] = []

    def report(kind: str, where: str, message: str, fatal: bool = False) -> None:
        problems.append(Problem(kind, file, where, message, fatal))

    _check_ids(content, use, report)
    _check_categories(content["categories"], classes, report)
    images = _check_images(content, use, report)
    usable = _check_annotations(content, table, images, classes, use, report)
    if not content["images"]:
        report("no_images", "", "there are no images", fatal=True)
    elif not usable and (use.annotated or use.evaluated):
        message = "no image has a usable object" + ("" if classes is None else " of the config's classes")
        report("no_objects", "", message + _if_normalised(table), fatal=use.needs_annotations)
    return problems


def _check_ids(content: dict, use: FileUse, report: Report) -> None:
    for kind, entries in (("category", "categories"), ("image", "images"), ("annotation", "annotations")):
        ids = [entry.get("id") for entry in content[entries]]
        for number, count in Counter(map(hashable, ids)).items():
            if number is None:
                report("missing_key", "", f"{count} {entries} have no id", fatal=True)
            elif count > 1:
                report(f"duplicate_{kind}_id", f"{kind} {number}", f"the id occurs {count} times", fatal=True)
        types = {type(number) for number in ids if number is not None}
        if not types <= {int, str, float}:
            report("not_an_id", "", f"an id of {entries} is no number and no text", fatal=True)
        if use.evaluated and kind != "category" and str in types and len(types) > 1:
            report("not_an_id", "", f"ids of {entries} are partly numbers and partly texts", fatal=True)
        elif use.evaluated and kind != "annotation" and (merged := _merged_by_numpy(ids)) is not None:
            report(
                "not_an_id",
                f"{kind} {merged}",
                f"COCO's evaluation puts the ids of {entries} into one array, in which this one is equal to another "
                "(integers above 2^53 beside others that are no integers): give them smaller integers",
                fatal=True,
            )
        if use.evaluated and kind == "annotation":
            if types - {int}:
                report(
                    "not_an_id",
                    "",
                    "ids of annotations are no integers, as COCO's evaluation needs",
                    fatal=True,
                )
            if 0 in ids:
                report(
                    "zero_annotation_id",
                    "annotation 0",
                    "COCO's evaluation takes a match with annotation 0 for none: number annotations from 1",
                    fatal=True,
                )


def _merged_by_numpy(ids: Sequence[Any]) -> int | float | None:
    """The first number that another one is equal to once numpy has made one array of all; None if none is.

    numpy makes floats of integers beside floats, and of negative ones beside those above int64.
    """
    numbers = list(dict.fromkeys(number for number in ids if is_number(number)))
    array = np.array(numbers)
    if array.dtype.kind in "iO" or len(np.unique(array)) == len(numbers):
        return None
    seen = Counter(array.tolist())
    return next(one for one, as_read in zip(numbers, array.tolist(), strict=True) if seen[as_read] > 1)


def _check_categories(categories: list[dict], classes: Sequence[str] | None, report: Report) -> None:
    unnamed = [category.get("id") for category in categories if "name" not in category]
    if unnamed:
        report("missing_key", "", f"{len(unnamed)} categories have no name", fatal=True)
    ids: dict[Any, list] = {}
    for category in categories:
        ids.setdefault(hashable(category.get("name")), []).append(category.get("id"))
    for name, same in ids.items():
        if name is not None and len(same) > 1:
            # Each gets a label of its own, so that later labels reach beyond the number of classes.
            report(
                "duplicate_category_name",
                f"categories {listed(map(str, same))}",
                f"they have the same name {name!r}: give each its own, or make them one category",
                fatal=classes is None or name in classes,
            )
    if classes is not None and not any(len(same) > 1 for name, same in ids.items() if name in classes):
        _check_classes(categories, classes, report)


def _check_classes(categories: list[dict], classes: Sequence[str], report: Report) -> None:
    in_file = labelled_names(categories, classes)
    known = listed([str(category.get("name")) for category in categories], 5)
    if not in_file:
        report(
            "absent_class",
            "",
            f"none of the config's classes ({listed(classes)}) is a category of the file ({known}): set the data set's "
            "metainfo=dict(classes=(...))",
            fatal=True,
        )
        return
    message = label_mismatch(in_file, classes)
    if message:
        report("class_order", "", message, fatal=True)
    for name in classes:
        if name not in in_file:
            report(
                "absent_class",
                "",
                f"class {name!r} of the config is no category of the file ({known}): add the category (it needs no "
                "objects), or take the class out of the config",
                fatal=True,
            )


def label_mismatch(in_file: Sequence[str], classes: Sequence[str]) -> str:
    """How the labels of a file's categories differ from the classes of a config; empty if they do not.

    Args:
        in_file: Of :func:`labelled_names`.
        classes: The class names of the config.
    """
    label = first_difference(in_file, classes)
    if label is None:
        return ""
    return (
        f"label {label} is {in_file[label]!r} by the file's categories ({listed(in_file, 5)}) and {classes[label]!r} "
        f"by the config's classes ({listed(classes, 5)}): MMDetection numbers labels in the file's order and names "
        "them in the config's; bring both into one order"
    )


def _check_images(content: dict, use: FileUse, report: Report) -> dict[Any, dict]:
    images = {}
    for image in content["images"]:
        where = f"image {image.get('id')}"
        images[hashable(image.get("id"))] = image
        if not use.loaded:
            continue
        missing = [key for key in ("file_name", "width", "height") if key not in image]
        if missing:
            report("missing_key", where, f"no {listed(missing)}", fatal=True)
        elif not (is_number(image["width"]) and is_number(image["height"])):
            report(
                "not_a_size",
                where,
                f"its size is no numbers: {image['width']!r}x{image['height']!r}",
                fatal=True,
            )
        elif not (is_positive(image["width"]) and is_positive(image["height"])):
            report("zero_size_image", where, f"its size is {image['width']}x{image['height']}")
        if "file_name" in image and not isinstance(image["file_name"], str):
            report("not_a_path", where, f"its file_name is no text: {image['file_name']!r:.60}", fatal=True)
        elif "file_name" in image and leaves_folder(image["file_name"]):
            report("path_outside", where, f"its path {image['file_name']!r} leaves the image folder")
    named = Counter(str(image["file_name"]) for image in content["images"] if "file_name" in image)
    for name, count in named.items():
        if count > 1:
            report("duplicate_image", "", f"{count} images share the file {name!r}")
    return images


def _check_annotations(
    content: dict,
    table: AnnotationTable | None,
    images: dict[Any, dict],
    classes: Sequence[str] | None,
    use: FileUse,
    report: Report,
) -> int:
    """Report the annotations' problems; returns the number of objects that can be trained on."""
    annotations = content["annotations"]
    categories = {hashable(category.get("id")) for category in content["categories"]}
    wanted = {
        hashable(category.get("id"))
        for category in content["categories"]
        if classes is None or category.get("name") in classes
    }
    usable = 0
    suspects: Sequence[dict] = annotations
    if table is not None:
        # In columns first: one by one, COCO's 860,000 boxes take seconds.
        suspect = _suspects(table)
        names = [hashable(category.get("id")) in wanted for category in content["categories"]]
        of_classes = np.array([*names, False], dtype=bool)[table.category]
        usable = int((~suspect & of_classes & ~table.crowd & ~table.ignored).sum())
        suspects = [annotations[index] for index in np.flatnonzero(suspect)]
    for annotation in suspects:
        found = list(_annotation_problems(annotation, images, categories))
        for kind, message, fatal in found:
            report(kind, _place(annotation), message, fatal)
        is_wanted = hashable(annotation.get("category_id")) in wanted
        left_out = annotation.get("iscrowd") or annotation.get("ignore")
        usable += not found and is_wanted and not left_out
    for annotation in annotations if use.evaluated or use.masks or use.evaluated_masks else ():
        # Of nearly all: the exact questions below take seconds for COCO's 860,000.
        if _plainly_meets_needs(annotation, use):
            continue
        if hashable(annotation.get("category_id")) in wanted and _is_read(annotation, images, use):
            for kind, message, fatal in _unmet_needs(annotation, images, use):
                report(kind, _place(annotation), message, fatal)
    return usable


def _place(annotation: dict) -> str:
    return f"annotation {annotation.get('id')} of image {annotation.get('image_id')}"


def _is_read(annotation: dict, images: dict, use: FileUse) -> bool:
    """Whether a data set or an evaluation reads an annotation of a known class."""
    if hashable(annotation.get("image_id")) not in images:
        return False
    box = annotation.get("bbox")
    # Data sets leave these out.
    tiny = isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) < 1
    return use.evaluated or not (annotation.get("ignore") or tiny)


def _suspects(table: AnnotationTable) -> np.ndarray:
    """(n,) bool, whether :func:`_annotation_problems` can have something to say of an annotation."""
    x, y, width, height = table.boxes.T
    right, bottom = table.image_sizes().T
    # Comparisons with NaN are False.
    good = np.isfinite(table.boxes).all(1) & (width >= 1) & (height >= 1) & (table.area > 0)
    good &= (x >= -SLACK) & (y >= -SLACK) & (x + width <= right + SLACK) & (y + height <= bottom + SLACK)
    return ~(good & (table.image >= 0) & (table.category >= 0))


def _annotation_problems(annotation: dict, images: dict, categories: set) -> Iterator[tuple[str, str, bool]]:
    if annotation.get("ignore") is True or annotation.get("ignore") == 1:
        return  # left out before anything else of it is read
    image = images.get(hashable(annotation.get("image_id")))
    if image is None and "image_id" in annotation:
        # Nobody reads it.
        yield "unknown_image", f"there is no image {annotation['image_id']}", False
        return
    missing = [key for key in ("image_id", "category_id", "bbox", "area") if key not in annotation]
    if missing:
        yield "missing_key", f"no {listed(missing)}", True
        return
    if hashable(annotation["category_id"]) not in categories:
        yield "unknown_category", f"its category {annotation['category_id']} is not in the file", False
    box = annotation["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        yield "not_a_box", f"its box is not four numbers: {str(box)[:60]}", True
        return
    if not all(map(is_finite, box)):
        # A NaN box is left out by MMDetection, an infinite one is not.
        yield "not_finite_box", f"its box is not finite: {box}", True
        return
    x, y, width, height = box
    if width <= 0 or height <= 0:
        yield "zero_size_box", f"its box has no area: width {width:g}, height {height:g}", False
    elif width < 1 or height < 1:
        yield (
            "tiny_box",
            f"its box is {width:g}x{height:g} pixels: MMDetection leaves out boxes below one pixel",
            False,
        )
    elif image is not None and is_positive(image.get("width")) and is_positive(image.get("height")):
        right, bottom = image["width"], image["height"]
        if x < -SLACK or y < -SLACK or x + width > right + SLACK or y + height > bottom + SLACK:
            box = ", ".join(f"{value:g}" for value in (x, y, x + width, y + height))
            yield "box_outside", f"its box ({box}) reaches out of the {right}x{bottom} image", False
    if not is_number(annotation["area"]):
        yield "not_an_area", f"its area is no number: {annotation['area']!r:.60}", True
    elif not annotation["area"] > 0 and width > 0 and height > 0:
        yield "zero_area", f"its area is {annotation['area']!r}, so that MMDetection leaves it out", False


def _plainly_meets_needs(annotation: dict, use: FileUse) -> bool:
    """A cheap test that an annotation has what the file is used for; where it fails it may have it all the same."""
    crowd_known = not use.evaluated or annotation.get("iscrowd") in (0, 1)
    masked = use.masks or use.evaluated_masks
    return crowd_known and (not masked or has_closed_polygons(annotation.get("segmentation")))


def _unmet_needs(annotation: dict, images: dict, use: FileUse) -> Iterator[tuple[str, str, bool]]:
    """What an annotation lacks of what the file is used for."""
    if use.evaluated:
        if "iscrowd" not in annotation:
            yield (
                "missing_key",
                "no iscrowd, which COCO's evaluation needs (0 for an object, 1 for a crowd)",
                True,
            )
        elif annotation["iscrowd"] not in (0, 1):
            yield "not_a_crowd", f"its iscrowd is {annotation['iscrowd']!r:.60}, which must be 0 or 1", True
    if use.masks or use.evaluated_masks:
        image = images[hashable(annotation["image_id"])]
        size = image.get("width"), image.get("height")
        problem = mask_problem(annotation.get("segmentation"), *size, evaluated=use.evaluated_masks)
        if problem is not None:
            yield problem


def _if_normalised(table: AnnotationTable | None) -> str:
    """Advice where all boxes lie in the unit square."""
    if table is None or not len(table.boxes) or not (np.abs(table.boxes) <= 1).all():
        return ""
    return ": all boxes lie within 0 and 1, and COCO's are in pixels: multiply them by the images' width and height"
