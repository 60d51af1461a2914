"""The results of a suite as JSON lines: one for each finished or failed run, the last one counts."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lad.base.json_lines import end_last_line
from lad.errors import DataError
from suites import files

# Of a record, with the way its digest is made. What has another one is evaluated again.
FORMAT = 3


@dataclass(frozen=True)
class Key:
    """Key of a record: a row of the table and a seed."""

    row: str
    seed: int


@dataclass(frozen=True)
class Record:
    """Result of one detector and seed.

    Attributes:
        suite, entry, network, seed: Which run; ``network`` is empty unless the training leaves several behind.
        row: The row of the table.
        status: ``'ok'``, or ``'failed'`` with the ``error``.
        config: The training config's path.
        digest: Of all that decides the result (:mod:`suites.digest`).
        metrics: ``mAP``, ``AP50``, ``AP75``, ``AP_s``, ``AP_m``, ``AP_l`` in [0, 1]; -1 without such objects.
        seconds: Training time.
        parameters: Numbers that the plain detector learns.
        detections: COCO results, relative to the file of records.
        annotations: COCO ground truth.
        categories: Category ids that are evaluated.
        checkpoint: What was evaluated, relative to the file of records.
        trained_with: Versions of Python, the packages and the project's commit; several where a training went on with
            others, ``'unknown'`` where they were not recorded.
        error: The last error line of a failed training's log.
        sha256: Of the files ``detections`` and ``annotations`` when they were evaluated.
        format: Of the record.
    """

    suite: str
    entry: str
    network: str
    seed: int
    row: str
    status: str
    config: str
    digest: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    parameters: int | None = None
    detections: str | None = None
    annotations: str | None = None
    categories: tuple[int, ...] = ()
    checkpoint: str | None = None
    trained_with: tuple[str, ...] = ()
    error: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    format: int = 0

    @property
    def key(self) -> Key:
        """Key of the record."""
        return Key(self.row, self.seed)

    def changed_files(self, root: Path) -> list[str]:
        """Names of the record's files, ``'detections'`` or ``'annotations'``, whose content has changed.

        Args:
            root: Folder of the records.
        """
        return files.changed(
            self.sha256, evaluated_files(root / (self.detections or ""), self.annotations or "")
        )


RecordType = TypeVar("RecordType", bound=Record)
# JSON has no tuples.
TUPLES = ("categories", "trained_with", "resampled")


def evaluated_files(detections: str | Path, annotations: str | Path) -> dict[str, str | None]:
    """SHA-256 of the two files that the figures of a record are made of."""
    return dict(detections=files.sha256(detections), annotations=files.sha256(annotations))


def read_records(path: Path, record_type: type[RecordType] = Record) -> dict[Key, RecordType]:
    """The last record of each run; none where there is no file.

    A last line that a killed process left half-written is passed over.

    Args:
        path: The file.
        record_type: Of its records.

    Raises:
        DataError: a line is no record.
    """
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error}); move it away, or mend it.") from error
    known = {field.name for field in dataclasses.fields(record_type)}
    records = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            for key in known.intersection(TUPLES):
                content[key] = tuple(content.get(key, ()))
            record = record_type(**{key: value for key, value in content.items() if key in known})
            if not isinstance(record.metrics, dict):
                raise TypeError(f"metrics is {record.metrics!r:.60}")
        except (ValueError, TypeError, AttributeError) as error:
            if number == len(lines):
                continue  # no line end: half-written
            raise DataError(f"{path}: line {number} is no record: {error}; remove the line.") from error
        records[record.key] = record
    return records


def append_record(path: Path, record: Record) -> None:
    """Append a record; safe for several processes at a time.

    A last line without an end is removed where a killed process left it half-written, and gets its end where it is
    whole, as some editors leave it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(record)) + "\n"
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        end_last_line(file)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
