"""Files of a command that writes all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lad.errors import ConfigError


class Output:
    """Files that are written one after the other, and taken back where a later step fails.

    Args:
        force: Whether files that are there may be replaced.
    """

    def __init__(self, force: bool = False) -> None:
        self.force = force
        self._before: dict[Path, bytes | None] = {}

    def check_new(self, files: Iterable[Path]) -> None:
        """Refuse to replace a file that is there.

        Raises:
            ConfigError: one is.
        """
        there = [file for file in files if file.exists() and file not in self._before]
        if there and not self.force:
            raise ConfigError(f"{there[0]} exists: give another --out, or --force to replace it.")

    def write(self, file: Path, text: str) -> None:
        """Write a file, and its folder.

        Raises:
            ConfigError: it is there.
        """
        self.check_new([file])
        self._before.setdefault(file, file.read_bytes() if file.exists() else None)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """Give the files the content that they had, or remove them, where the block fails."""
        try:
            yield
        except BaseException:
            for file, content in self._before.items():
                if content is not None:
                    file.write_bytes(content)
                    continue
                file.unlink(missing_ok=True)
                if not any(file.parent.iterdir()):
                    file.parent.rmdir()
            raise
