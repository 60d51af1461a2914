"""Files of trainings: checksums, whether their content has changed, and configs that are handed to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lad.engine.checkpoints import write_whole

from mmengine.config import Config


def sha256(file: str | Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    file = Path(file)
    if not file.is_file():
        return None
    status = file.stat()
    return _sha256(str(file), status.st_mtime_ns, status.st_size)


@cache
def _sha256(path: str, *_when: int) -> str:
    """Cached until the modification time or size of the file changes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """Names whose hashes differ; an unknown hash, before or now, counts as equal."""
    return [name for name, value in now.items() if len({before.get(name), value} - {None}) > 1]


def write_config(cfg: Config, file: Path) -> None:
    """Write a config as one file, whole or not at all."""
    write_whole(file, cfg.pretty_text.encode())
