"""Checkpoint files that are whole or not there, and finding the one to go on from."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from lad.compat.safe_loading import load_safely
from lad.errors import CheckpointError, listed

import mmengine.fileio
from mmengine.fileio import LocalBackend

#: The file in a work_dir that names the checkpoint to resume from; MMEngine's own name.
LAST_CHECKPOINT = "last_checkpoint"
PARTIAL = ".partial"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old content or the new, never a part.

    Raises:
        CheckpointError: it cannot be written (a full disk, say); what was there is untouched.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            # The data must be on the disk before the name is: a power cut may keep either.
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path} ({len(content) / 2**20:.0f} MB): {error.strerror or error}; earlier checkpoints are "
            "untouched: make room or set default_hooks.checkpoint.out_dir, then go on with --resume."
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicLocalBackend(LocalBackend):
    """MMEngine's backend for local files, whose :meth:`put` is :func:`write_whole`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file."""
        write_whole(Path(filepath), obj)


ATOMIC = dict(backend=AtomicLocalBackend.__name__)
mmengine.fileio.register_backend(AtomicLocalBackend.__name__, AtomicLocalBackend, force=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what killed writes left behind."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def write_last_checkpoint(work_dir: str | Path, checkpoint: str) -> None:
    """Let ``last_checkpoint`` name a checkpoint, which must be safely written by now."""
    write_whole(Path(work_dir) / LAST_CHECKPOINT, checkpoint.encode())


def read_last_checkpoint(work_dir: str | Path) -> Path | None:
    """What ``last_checkpoint`` names; None where there is none or it is empty."""
    name = _last_name(work_dir)
    return Path(name) if name else None


def _last_name(work_dir: str | Path) -> str:
    try:
        return (Path(work_dir) / LAST_CHECKPOINT).read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


class NoTrainingError(CheckpointError):
    """A file that is whole and holds no state of a training: weights alone, or a bad batch."""


def check_resumable(path: Path) -> None:
    """Refuse a file that no training can be resumed from.

    Raises:
        CheckpointError: it is missing, truncated, damaged or unsafe.
        NoTrainingError: it holds weights alone, or something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        if zipfile.is_zipfile(path):
            # torch does not compare checksums when it reads.
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong")
        # Without the tensors' data: what is asked is whether they are there.
        checkpoint = load_safely(path, map_location="meta")
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    missing = {"state_dict", "meta", "message_hub", "optimizer"} - set(
        checkpoint if isinstance(checkpoint, dict) else ()
    )
    if missing:
        raise NoTrainingError(f"{path} has no {listed(sorted(missing))}: no training can be resumed from it")


@dataclass(frozen=True)
class Resumable:
    """Where a run goes on.

    Attributes:
        path: The checkpoint; None where there is none at all. In remote storage it is as ``last_checkpoint`` has it,
            and was not looked at.
        refused: Why the newer ones were passed over, a sentence each.
    """

    path: Path | str | None
    refused: list[str] = field(default_factory=list)


def candidates(work_dir: str | Path) -> list[Path]:
    """Checkpoints of a work_dir, the one that ``last_checkpoint`` names first, the others from the newest on."""
    last = read_last_checkpoint(work_dir)
    folders = {Path(work_dir)} | ({last.parent} if last is not None else set())
    others = {path for folder in folders for path in folder.glob("*.pth") if not path.name.startswith(".")}
    others = sorted(others - {last}, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return others if last is None else [last, *others]


def find_resumable(work_dir: str | Path) -> Resumable:
    """The checkpoint that a run in ``work_dir`` goes on from: the last one, or the newest good one.

    Raises:
        CheckpointError: ``last_checkpoint`` names one, and neither it nor any other can be resumed from.
    """
    last = _last_name(work_dir)
    if "://" in last:
        return Resumable(last)
    refused = []
    for path in candidates(work_dir):
        try:
            check_resumable(path)
        except NoTrainingError as error:
            # Single networks' weights and bad batches lie beside the checkpoints.
            if str(path) == last:
                refused.append(str(error))
        except CheckpointError as error:
            refused.append(str(error))
        else:
            return Resumable(path, refused)
    if read_last_checkpoint(work_dir) is not None:
        raise CheckpointError(
            f"no checkpoint in {work_dir} can be resumed from ({refused[0]}): train without --resume to begin anew, or "
            "name another with --resume CHECKPOINT."
        )
    return Resumable(None, refused)
