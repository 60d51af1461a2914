"""Files of a search's folder, and what a user has put there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lad.errors import ConfigError, DataError
from lad.search.data import FIT, SELECT

JOURNAL, SETTINGS, BEST, TABLE = "study.journal", "search.json", "best.py", "search.md"
#: Folders of the trials and of the split annotations.
TRIALS, DATA = "trials", "data"


def check_free(folder: Path) -> None:
    """Refuse a folder that has files of a search's names and is none.

    Raises:
        ConfigError: names one.
    """
    for name in (BEST, TABLE, JOURNAL, TRIALS, f"{DATA}/{FIT}", f"{DATA}/{SELECT}"):
        if (folder / name).exists():
            raise ConfigError(
                f"{folder / name} is there and of no search: move it, or give another --work-dir."
            )


def read_settings(file: Path) -> dict[str, Any]:
    """What the search in a folder searches.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        content = json.loads(file.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise DataError(f"{file} cannot be read ({error}): remove it to go on with the search.") from error
    return content


def check_journal(file: Path) -> None:
    """Refuse a journal with lines that are none of optuna's; the last one may be half written.

    Raises:
        DataError: names the line.
    """
    *lines, _ = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{file}, line {number}, cannot be read ({error}): take the line out, or give another --work-dir."
            ) from error


def remove_stale_lock(journal: Path) -> None:
    """Remove a lock whose link leads nowhere, as in a folder that was moved: optuna would wait for it for ever."""
    lock = journal.with_name(f"{journal.name}.lock")
    if lock.is_symlink() and not lock.exists():
        lock.unlink()


def keep_edited(file: Path, own: Iterable[str]) -> Path | None:
    """Move a file that was changed by hand out of the way: ``best.edited1.py``.

    Args:
        file: The file, if it is there.
        own: All that it may hold unchanged.

    Returns:
        Where it is now; None if it was not changed.
    """
    if not file.exists() or file.read_text(errors="replace") in own:
        return None
    names = (file.with_name(f"{file.stem}.edited{number}{file.suffix}") for number in itertools.count(1))
    kept = next(name for name in names if not name.exists())
    return file.rename(kept)
