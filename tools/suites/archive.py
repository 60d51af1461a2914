"""Archived results: records that need no files of their training, kept beside the suite's file.

A record of a finished run points to detections in a work_dir. An archived one carries what intervals and verdicts are
computed from instead, the mAP on resampled images, in a few kilobytes: it can be committed, and a suite goes on from it
on any machine.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lad.engine.checkpoints import write_whole
from lad.evaluation.bootstrap import Replicates
from suites import files
from suites.records import Key, Record, read_records

#: Of the mAP on resampled images.
DECIMALS = 5


@dataclass(frozen=True)
class ArchivedRecord(Record):
    """A result without the files of its training.

    Attributes:
        trained_on: SHA-256 of the annotation files that the training read, by their places.
        images: Number of images that it was evaluated on.
        resampled: mAP of each replicate of the bootstrap (:func:`suites.resampling.image_draws`).
    """

    trained_on: Mapping[str, str | None] = field(default_factory=dict)
    images: int = 0
    resampled: tuple[float, ...] = ()

    def is_of(self, record: Record) -> bool:
        """Whether it is the archived form of a record."""
        own, other = (
            (one.status, one.format, one.digest, one.metrics, one.seconds, one.sha256.get("annotations"))
            for one in (self, record)
        )
        return own == other

    def changed_data(self) -> list[str]:
        """Annotation files that are here with another content than the training read."""
        return files.changed(self.trained_on, {file: files.sha256(file) for file in self.trained_on})


def read_archive(file: Path | None) -> dict[Key, ArchivedRecord]:
    """The archived results of a suite; none where there is no file.

    Raises:
        DataError: a line is no record.
    """
    return {} if file is None else read_records(file, ArchivedRecord)


def archived(
    record: Record, seed: Replicates, images: int, trained_on: Mapping[str, str | None]
) -> ArchivedRecord:
    """The archived form of a record.

    Args:
        record: A successful run's.
        seed: mAP on resampled images of its row's seeds.
        images: Number of images.
        trained_on: SHA-256 of the annotation files that the training read, by their places.
    """
    kept = {one.name: getattr(record, one.name) for one in dataclasses.fields(Record)}
    kept |= dict(detections=None, checkpoint=None)
    kept["sha256"] = {"annotations": record.sha256.get("annotations")}
    resampled = tuple(round(float(value), DECIMALS) for value in seed.resampled[record.seed])
    return ArchivedRecord(**kept, trained_on=dict(trained_on), images=images, resampled=resampled)


def write_archive(file: Path, records: Iterable[ArchivedRecord]) -> None:
    """Write records, in the order given, in the place of a file's."""
    lines = [json.dumps(dataclasses.asdict(record)) + "\n" for record in records]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(lines).encode())
