"""Runs and records that differ from what the suite would train or measure now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suites import runs
from suites.archive import ArchivedRecord
from suites.plan import Options, plan
from suites.records import FORMAT, Key, Record
from suites.resampling import REPLICATES
from suites.runs import Run
from suites.suite import Network, Suite

#: Reasons why a recorded result differs from what the suite would measure now.
OTHER = "measured with another config, teacher, or annotations than the suite has now"
OLDER = "recorded by an older version; `run` evaluates it again"


def changed_since(suite: Suite, root: Path, records: Mapping[Key, Record]) -> dict[Key, str]:
    """Recorded and archived results that differ from what the suite would measure now, with the reason."""
    changed = {}
    for run in plan(suite, root, Options()):
        found = {
            network: records[Key(network.row, run.seed)]
            for network in run.entry.networks
            if Key(network.row, run.seed) in records
        }
        archived = {
            network: record for network, record in found.items() if isinstance(record, ArchivedRecord)
        }
        recorded = {network: record for network, record in found.items() if network not in archived}
        trained = any(record.status == "ok" for record in recorded.values())
        if not (archived or trained):
            continue
        own = runs.identity(run)
        for network, result in archived.items():
            if not is_current(result, run, network, own):
                changed[result.key] = OTHER
        other = trained and run.is_begun() and runs.differences(run, own)
        for network, record in recorded.items() if trained else ():
            if not other and record.format != FORMAT:
                changed[record.key] = OLDER
            elif other or record.digest != runs.result_digest(run, network, own):
                changed[record.key] = OTHER
    return changed


def known_results(
    suite: Suite,
    root: Path,
    records: Mapping[Key, Record],
    archive: Mapping[Key, ArchivedRecord],
    replicates: int = REPLICATES,
) -> tuple[dict[Key, Record], dict[Key, str]]:
    """Recorded and archived results, and which of them differ from what the suite would measure now, with the reason.

    An archived result counts where none is recorded, or one that failed, whose detections are gone, or that differs;
    and where the same is recorded, whose detections need not be matched once more.

    Args:
        suite: The suite.
        root: Folder of the records.
        records: Of the work_dir.
        archive: Of the suite.
        replicates: Of the bootstrap that is asked for.
    """
    resampled = {key for key, record in archive.items() if len(record.resampled) >= replicates}
    records = {
        key: record
        for key, record in records.items()
        if not (key in resampled and archive[key].is_of(record))
    }
    changed = changed_since(suite, root, records)
    known: dict[Key, Record] = dict(archive)
    for key, record in records.items():
        usable = record.status == "ok" and (root / (record.detections or "?")).is_file()
        if key not in archive or (usable and key not in changed):
            known[key] = record
    archived = {key: record for key, record in known.items() if isinstance(record, ArchivedRecord)}
    own = {key: reason for key, reason in changed.items() if key not in archived}
    return known, own | changed_since(suite, root, archived)


def is_current(record: ArchivedRecord, run: Run, network: Network, identity: Mapping[str, Any]) -> bool:
    """Whether an archived result is what the suite would measure now.

    Args:
        record: The archived result.
        run, network: What the suite has.
        identity: The run's :func:`suites.runs.identity`.
    """
    return (
        record.status == "ok"
        and record.format == FORMAT
        and record.digest == runs.result_digest(run, network, identity)
        and not record.changed_data()
        and not record.changed_files(run.root)
    )


def is_archived(run: Run, identity: Mapping[str, Any], archive: Mapping[Key, ArchivedRecord]) -> bool:
    """Whether all that a run would measure now is archived."""
    found = {network: archive.get(Key(network.row, run.seed)) for network in run.entry.networks}
    return all(
        record is not None and is_current(record, run, network, identity) for network, record in found.items()
    )


def changed_training(run: Run, identity: Mapping[str, Any]) -> str | None:
    """Why the training in a run's folder is not this run; None where it is, or where there is none.

    Args:
        run: The run.
        identity: Its :func:`suites.runs.identity`.
    """
    changed = runs.differences(run, identity) if run.is_begun() else []
    if not changed:
        return None
    return f"{', '.join(changed)} changed since it was trained; --rerun-changed trains it again"


def is_recorded(run: Run, identity: Mapping[str, Any], recorded: Mapping[Key, Record]) -> bool:
    """Whether a run is trained, evaluated and recorded as the suite would do it now."""
    return (
        run.is_trained()
        and runs.is_claimed(run)
        and all(_usable_record(run, network, recorded) for network in run.entry.networks)
        and outdated_record(run, identity, recorded) is None
    )


def outdated_record(run: Run, identity: Mapping[str, Any], recorded: Mapping[Key, Record]) -> str | None:
    """Why a record of a run differs from what would be recorded now; None where none does."""
    if not run.is_trained():
        return None
    for network in run.entry.networks:
        record = _usable_record(run, network, recorded)
        if record is None:
            continue
        if record.format != FORMAT:
            return "recorded by an older version"
        changed = record.changed_files(run.root)
        if record.digest != runs.result_digest(run, network, identity):
            changed = ["evaluation", *changed]
        if changed:
            return f"its {' and '.join(changed)} changed since it was recorded"
    return None


def _usable_record(run: Run, network: Network, recorded: Mapping[Key, Record]) -> Record | None:
    """The record of a network's successful run whose detections exist; else None."""
    record = recorded.get(Key(network.row, run.seed))
    is_usable = (
        record is not None and record.status == "ok" and (run.root / (record.detections or "?")).is_file()
    )
    return record if is_usable else None
