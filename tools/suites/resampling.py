"""mAP of a suite's recorded detectors on resampled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lad.errors import DataError
from lad.evaluation.bootstrap import ImageMatches, Replicates, image_weights, match_images, replicate
from lad.evaluation.detections import coco_evaluation, load_ground_truth
from suites.archive import ArchivedRecord
from suites.records import Key, Record

import numpy as np
from pycocotools.coco import COCO

#: By default, of the bootstrap; and of what is archived.
REPLICATES = 1000


@dataclass(frozen=True)
class Resampled:
    """Records that count, and their mAP on resampled images.

    Attributes:
        records: By row and seed, those that count.
        replicates: By row, of its seeds.
        gone: Records whose detections cannot be read, or whose files are others now, with the reason.
        images: Number of images that were evaluated.
    """

    records: Mapping[str, Mapping[int, Record]]
    replicates: Mapping[str, Replicates]
    gone: Mapping[Key, str]
    images: int


def image_draws(images: int, replicates: int) -> np.ndarray:
    """(B, I) how often each image occurs in each replicate; the same in every call, and the first of any larger B."""
    return image_weights(images, replicates, np.random.default_rng(0))


def resample(
    found: Mapping[str, Mapping[int, Record]], root: Path, replicates: int = REPLICATES
) -> Resampled:
    """Evaluate recorded detections on resampled images; archived results have been.

    Args:
        found: By row and seed, the successful runs' records.
        root: Folder of the records, which paths of detections are relative to.
        replicates: Of the bootstrap.

    Raises:
        DataError: the annotations are not there, detectors were evaluated on different images or categories, or there
            are archived results of fewer replicates.
    """
    everything = [record for own in found.values() for record in own.values()]
    _check_comparable(everything)
    gone = _changed(everything, root)
    live = [
        record for record in everything if not isinstance(record, ArchivedRecord) and record.key not in gone
    ]
    matches, unreadable = _match_all(live, root)
    gone |= unreadable
    kept = {
        row: {seed: record for seed, record in own.items() if record.key not in gone}
        for row, own in found.items()
    }
    images = _number_of_images(kept, matches)
    weights = image_draws(images, replicates) if images else None
    return Resampled(
        records=kept,
        replicates={row: _replicates(own, matches, weights) for row, own in kept.items() if own},
        gone=gone,
        images=images,
    )


def _check_comparable(records: list[Record]) -> None:
    for record in records:
        for what in ("annotations", "categories"):
            here, there = getattr(record, what), getattr(records[0], what)
            if here != there:
                raise DataError(
                    f"{record.row} was evaluated on {what} {here} and {records[0].row} on {there}: not comparable."
                )


def _changed(records: list[Record], root: Path) -> dict[Key, str]:
    # Of a changed file, AP50 and AP75 would be others' than the mAP that is computed here.
    changed = {record.key: record.changed_files(root) for record in records}
    return {
        key: f"its {' and '.join(names)} changed since it was recorded"
        for key, names in changed.items()
        if names
    }


def _match_all(records: list[Record], root: Path) -> tuple[dict[Key, ImageMatches], dict[Key, str]]:
    """Matches of each record's detections, and why those of others do not count."""
    matches: dict[Key, ImageMatches] = {}
    unreadable: dict[Key, str] = {}
    annotations = _annotations(records[0]) if records else None
    for record in records:
        try:
            evaluation = coco_evaluation(
                annotations, root / (record.detections or "?"), record.categories, areas=False
            )
        except DataError as error:
            unreadable[record.key] = str(error)
            continue
        matches[record.key] = match_images(evaluation)
    return matches, unreadable


def _annotations(record: Record) -> COCO:
    try:
        return load_ground_truth(record.annotations)
    except OSError as error:
        raise DataError(
            f"annotations {record.annotations!r} of {record.row} cannot be read: {error}."
        ) from error


def _number_of_images(kept: Mapping[str, Mapping[int, Record]], matches: Mapping[Key, ImageMatches]) -> int:
    """The number of images that all were evaluated on; 0 where nothing was.

    Raises:
        DataError: some were evaluated on another number.
    """
    images = {key.row: len(found.image_ids) for key, found in matches.items()}
    for own in kept.values():
        images |= {record.row: record.images for record in own.values() if isinstance(record, ArchivedRecord)}
    if len(set(images.values())) > 1:
        texts = ", ".join(f"{row} on {number}" for row, number in images.items())
        raise DataError(f"detectors were evaluated on different numbers of images ({texts}): not comparable.")
    return next(iter(images.values()), 0)


def _replicates(
    own: Mapping[int, Record], matches: Mapping[Key, ImageMatches], weights: np.ndarray
) -> Replicates:
    """mAP of one row's seeds."""
    live = replicate({seed: matches[one.key] for seed, one in own.items() if one.key in matches}, weights)
    old = {seed: one for seed, one in own.items() if isinstance(one, ArchivedRecord)}
    for one in old.values():
        if len(one.resampled) < len(weights):
            raise DataError(
                f"the archived {one.row} has {len(one.resampled)} replicates and {len(weights)} were asked for; ask "
                "for fewer, or leave the archive out."
            )
    return Replicates(
        values={**live.values, **{seed: one.metrics["mAP"] for seed, one in old.items()}},
        resampled={
            **live.resampled,
            **{seed: np.array(one.resampled[: len(weights)]) for seed, one in old.items()},
        },
    )
