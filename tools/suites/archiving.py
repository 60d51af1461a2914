"""Add the results of a work_dir to a suite's archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lad.errors import DataError
from suites import runs
from suites.archive import ArchivedRecord, archived, read_archive, write_archive
from suites.plan import Options, plan
from suites.records import Key, Record
from suites.resampling import resample
from suites.results import successful
from suites.stale import changed_since
from suites.suite import Suite


@dataclass(frozen=True)
class Archiving:
    """Outcome of :func:`archive_results`.

    Attributes:
        added: Results that are archived now and were not, or not like this.
        left_out: Recorded results that were not taken, with the reason.
        total: Number of results in the archive.
    """

    added: tuple[Key, ...]
    left_out: Mapping[Key, str]
    total: int


def archive_results(suite: Suite, root: Path, records: Mapping[Key, Record]) -> Archiving:
    """Add recorded results to a suite's archive; those that are there already stay, or give way to newer ones.

    Results that the suite would not measure any more, whose files are gone or whose training failed are left out.

    Args:
        suite: With the file of its archive.
        root: Folder of the records.
        records: Of :func:`suites.records.read_records`.

    Raises:
        DataError: the suite has no archive, or results are not comparable.
    """
    if suite.archive is None:
        raise DataError(
            f"the suite {suite.name!r} was not read from a file: there is no place for its archive."
        )
    old = read_archive(suite.archive)
    left_out = dict(changed_since(suite, root, records))
    # What is archived is not resampled once more.
    current = {
        key: old[key] if key in old and old[key].is_of(record) else record
        for key, record in records.items()
        if key not in left_out
    }
    measured = resample(successful(suite, current), root)
    left_out |= measured.gone
    left_out |= {
        key: record.error or "failed" for key, record in records.items() if record.status == "failed"
    }
    new = dict(old)
    for run in plan(suite, root, Options()):
        trained_on = runs.trained_on(run)
        for network in run.entry.networks:
            record = measured.records[network.row].get(run.seed)
            if record is not None and not isinstance(record, ArchivedRecord):
                seeds = measured.replicates[network.row]
                new[record.key] = archived(record, seeds, measured.images, trained_on)
    rows = list(suite.networks)
    # Of rows that the suite has no more too, at the end: nothing is lost.
    order = sorted(
        new, key=lambda key: (rows.index(key.row) if key.row in rows else len(rows), key.row, key.seed)
    )
    added = tuple(key for key in order if old.get(key) != new[key])
    if added:
        write_archive(suite.archive, [new[key] for key in order])
    return Archiving(added, left_out, len(new))
