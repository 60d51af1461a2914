"""Atomic writing of checkpoint files, and search for the checkpoint to resume from."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lad.compat.safe_loading import load_safely
from lad.errors import CheckpointError, listed

import mmengine.fileio
import torch
from mmengine.fileio import LocalBackend

#: The file in a work_dir that names the checkpoint to resume from; MMEngine's own name.
LAST_CHECKPOINT = "last_checkpoint"
PARTIAL = ".partial"
#: What to do where a checkpoint cannot be written.
CHECKPOINT_ADVICE = (
    "earlier checkpoints are untouched: make room or set default_hooks.checkpoint.out_dir, "
    "then go on with --resume"
)


def write_whole(
    path: Path,
    content: bytes,
    advice: str = "what was there before is kept: make room, or name another place",
) -> None:
    """Write a file atomically: a crash at any moment leaves the old content or the new, never a part.

    Args:
        path: The file; its folders are made.
        content: What it will hold.
        advice: What is left and what to do where it cannot be written, for the message; without a full stop.

    Raises:
        CheckpointError: it cannot be written (for example because the disk is full); the old content is kept.
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
            f"cannot write {path} ({len(content) / 2**20:.0f} MB): {error.strerror or error}; {advice}."
        ) from error


def torch_bytes(content: Mapping[str, Any]) -> bytes:
    """What ``torch.save`` writes, in memory."""
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    return stream.getvalue()


def write_torch(path: Path, content: Mapping[str, Any]) -> None:
    """Write what ``torch.save`` does, atomically as :func:`write_whole`.

    Raises:
        CheckpointError: it cannot be written; the old content is kept.
    """
    write_whole(path, torch_bytes(content), CHECKPOINT_ADVICE)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicLocalBackend(LocalBackend):
    """MMEngine's backend for local files with atomic writes (:func:`write_whole`)."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file."""
        write_whole(Path(filepath), obj, CHECKPOINT_ADVICE)


ATOMIC = dict(backend=AtomicLocalBackend.__name__)
mmengine.fileio.register_backend(AtomicLocalBackend.__name__, AtomicLocalBackend, force=True)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of interrupted writes."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def write_last_checkpoint(work_dir: str | Path, checkpoint: str) -> None:
    """Write the path of a checkpoint, which must be completely written, to ``last_checkpoint``."""
    write_whole(Path(work_dir) / LAST_CHECKPOINT, checkpoint.encode(), CHECKPOINT_ADVICE)


def read_last_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names; None if the file is absent or empty.

    It names a path. In a copy of a work_dir that is the original's, and the file of that name in the copy is meant.
    """
    name = _last_name(work_dir)
    if not name:
        return None
    own = Path(work_dir) / Path(name).name
    return own if own.is_file() else Path(name)


def _last_name(work_dir: str | Path) -> str:
    try:
        return (Path(work_dir) / LAST_CHECKPOINT).read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


class NoTrainingError(CheckpointError):
    """Readable file without the state of a training, such as weights alone or a bad batch."""


def check_resumable(path: Path) -> None:
    """Check that a training can be resumed from a file.

    Raises:
        CheckpointError: it is missing, truncated, damaged or unsafe.
        NoTrainingError: it holds weights alone, or something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    # On the meta device: the data of the tensors is not needed.
    checkpoint = load_safely(path, map_location="meta")
    check_training_state(checkpoint, str(path))


def check_training_state(checkpoint: Any, source: str) -> None:
    """Check that the content of a file is the state of a training, as far as this can be told without the training.

    Args:
        checkpoint: What was read.
        source: Where from, for the message.

    Raises:
        NoTrainingError: parts are missing, or are something else.
    """
    content = checkpoint if isinstance(checkpoint, dict) else {}
    parts = ("state_dict", "meta", "message_hub", "optimizer")
    missing = [part for part in parts if not isinstance(content.get(part), dict)]
    if not missing:
        missing = [
            f"meta.{key}" for key in ("epoch", "iter") if not isinstance(content["meta"].get(key), int)
        ]
    if missing:
        raise NoTrainingError(
            f"{source} has no {listed(sorted(missing))}: no training can be resumed from it"
        )


@dataclass(frozen=True)
class Resumable:
    """Checkpoint from which a run resumes.

    Attributes:
        path: The checkpoint; None if there is none. In remote storage it is the address in ``last_checkpoint``, not
            verified.
        refused: Why newer checkpoints were skipped, a sentence each.
    """

    path: Path | str | None
    refused: list[str] = field(default_factory=list)


def candidates(work_dir: str | Path) -> list[Path]:
    """Checkpoints of a work_dir: the one that ``last_checkpoint`` names, then the others from newest to oldest."""
    last = read_last_checkpoint(work_dir)
    folders = {Path(work_dir)} | ({last.parent} if last is not None else set())
    others = {path for folder in folders for path in folder.glob("*.pth") if not path.name.startswith(".")}
    newest_first = sorted(others - {last}, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return newest_first if last is None else [last, *newest_first]


def find_resumable(work_dir: str | Path) -> Resumable:
    """Find the checkpoint to resume from in ``work_dir``: the last one or, if that is damaged, the newest valid one.

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
            if path == read_last_checkpoint(work_dir):
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
