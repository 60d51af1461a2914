"""Problems of data sets, as the checks report them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem of a data set: of an annotation file, an image, or files that do not belong together.

    Attributes:
        kind: Name of the kind of problem: ``'missing_file'``, ``'zero_size_box'``, ...
        file: Path of the file, or the setting of the config.
        where: The entry in the file (``'image 7'``, ``'annotation 12 of image 7'``), empty for the file as a whole.
        message: Description of the problem.
        fatal: Whether the file cannot be trained on or evaluated with: MMDetection neither ignores the entry nor reads
            it as intended.
    """

    kind: str
    file: str
    where: str
    message: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.where + ': ' if self.where else ''}{self.message}"


def summary(problems: Iterable[Problem]) -> str:
    """Count problems by kind, the most frequent first: ``3 zero_size_box, 1 missing_file``."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(p.kind for p in problems).most_common())
