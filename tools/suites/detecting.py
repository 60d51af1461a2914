"""What a trained detector finds in other images than it is evaluated on, as a file that other trainings read."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lad.base.config import merge_options
from lad.engine.plain_config import student_only
from suites.digest import EVALUATION, ROOT, digest, digests
from suites.files import write_config

from mmengine.config import Config

if TYPE_CHECKING:
    from suites.runs import Run

#: Folder in a run's own of such files, with the logs of the commands that made them.
FOLDER = "detections"


@dataclass(frozen=True)
class Detecting:
    """The detections of a trained run under its plain config and some options.

    Attributes:
        run: The run, trained; the entry is one of a single detector.
        options: As in ``--cfg-options``: which images, and which annotation file their ids are of.
    """

    run: Run
    options: Mapping[str, Any]

    @cached_property
    def config(self) -> Config:
        """The plain detector's config with the options; placeholders as they are."""
        cfg = copy.deepcopy(student_only(self.run.config))
        merge_options(cfg, self.options, f"detect of {self.run.entry.name!r}")
        return cfg

    @property
    def digest(self) -> str:
        """Hash of all in the config that decides what is found."""
        return digest(digests(self.config, EVALUATION))

    @property
    def file(self) -> Path:
        """The COCO result file, of another name for other images."""
        return self.run.folder / FOLDER / f"{self.digest}.bbox.json"

    @property
    def log(self) -> Path:
        """What the command prints."""
        return self.run.folder / FOLDER / "test.log"

    def prepare(self) -> Path:
        """Write the config that ``tools/test.py`` is handed; returns the file that the detections will come in."""
        return prepare(self.run.filled(self.config), self._given, self.file.with_name(f".{self.digest}.new"))

    @property
    def _given(self) -> Path:
        return self.run.folder / FOLDER / f"{self.digest}.py"

    def command(self) -> list[str]:
        """Command that writes the detections."""
        return command(self._given, self.run.checkpoint(), self.run.folder / FOLDER / "test")


def prepare(cfg: Config, given: Path, prefix: Path) -> Path:
    """Write the config of a detector that ``tools/test.py`` is to be handed.

    Args:
        cfg: The plain config, without placeholders.
        given: Its place.
        prefix: Of the file of detections, another than that of the detections that are there: those stay until there
            are new ones.

    Returns:
        The file that the detections will come in, as CocoMetric names it.
    """
    cfg.test_evaluator.outfile_prefix = str(prefix)
    write_config(cfg, given)
    return prefix.with_name(f"{prefix.name}.bbox.json")


def command(given: Path, checkpoint: Path, work_dir: Path) -> list[str]:
    """Command that evaluates a checkpoint with a config of :func:`prepare` and writes its detections."""
    test = [sys.executable, str(ROOT / "tools/test.py"), str(given), str(checkpoint)]
    return [*test, "--work-dir", str(work_dir)]
