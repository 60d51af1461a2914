"""Folder of synthesised images as a COCO data set, written batch by batch and resumable."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from lad.base.processes import is_locked, locked
from lad.datasets.coco_file import box_annotation
from lad.engine.checkpoints import remove_partial_files, write_whole
from lad.errors import CheckpointError, ConfigError, DataError
from lad.synthesis.layouts import Layout
from lad.synthesis.optimisation import ImageSynthesiser, Objective, Schedule, SynthesisedBatch

import numpy as np
from PIL import Image

#: Files of the folder: the annotations, the images, and the log with the settings in its first line.
ANNOTATIONS, IMAGES, LOG = "annotations.json", "images", "synthesis.jsonl"
#: Settings that no image depends on.
INFORMATION = {"config"}


class Layouts(Protocol):
    """Draws the objects of the images of a run."""

    def draw(self, count: int, generator: np.random.Generator) -> list[Layout]:
        """Layouts of all images; what occurs equally often does so over all of them."""


@dataclass(frozen=True)
class SynthesisSettings:
    """What the images depend on; a folder is gone on with under the same settings only.

    Attributes:
        config: Path of the teacher's config, for information: folders of two paths are not told apart by it.
        model: SHA-256 of the ``model`` of that config, options of the command line included.
        epoch: The epoch for heads whose loss changes in the course of a training.
        checkpoint: SHA-256 of its checkpoint.
        classes: Its class names.
        layouts: What the objects are drawn from: parameters, or the SHA-256 of a file.
        images: How many.
        size: (height, width) in pixels.
        batch_size: Images that are optimised together, whose statistics are compared.
        seed: Of everything that is drawn.
        objective: What is minimised.
        schedule: How.
    """

    config: str
    model: str
    epoch: int
    checkpoint: str
    classes: tuple[str, ...]
    layouts: dict[str, Any]
    images: int
    size: tuple[int, int]
    batch_size: int
    seed: int
    objective: Objective
    schedule: Schedule

    def __post_init__(self) -> None:
        if self.images < 1 or self.batch_size < 1:
            raise ConfigError(
                f"images and batch_size must be at least 1, got {self.images} and {self.batch_size}."
            )
        if min(self.size) < 32:
            raise ConfigError(f"images must be at least 32 pixels high and wide, got {self.size}.")
        if self.seed < 0:
            raise ConfigError(f"the seed must be at least 0, got {self.seed}.")

    def batches(self) -> list[int]:
        """Number of images of each batch."""
        full, rest = divmod(self.images, self.batch_size)
        return [self.batch_size] * full + [rest] * (rest > 0)

    def layouts_seed(self) -> int:
        """Seed of the layouts of all images."""
        return self._words(0)[0]

    def image_seed(self, batch: int) -> int:
        """Seed of a batch's optimisation: of the settings and its number alone."""
        return self._words(batch)[1]

    def _words(self, batch: int) -> list[int]:
        return np.random.SeedSequence([self.seed, batch]).generate_state(2).tolist()

    def plain(self) -> dict[str, Any]:
        """As JSON has them."""
        return json.loads(json.dumps(asdict(self)))


class SynthesisedFolder:
    """A folder with the images that are done and a COCO file of them.

    ``images/000001.png`` ...; ``annotations.json``, the COCO file, anew after each batch; ``synthesis.jsonl``, a line
    of JSON with the settings and one for each batch: its annotations and its losses before and after. The line is
    written last, so a batch is either whole or made again. Only one process may write.

    Args:
        path: The folder.
        settings: What the images depend on.

    Raises:
        ConfigError: the folder holds something else, or images that were made with other settings.
    """

    def __init__(self, path: Path, settings: SynthesisSettings) -> None:
        self.path = path
        self.settings = settings
        self.batches = self._read()

    @property
    def images_done(self) -> int:
        """Number of images of the batches that are whole."""
        return sum(len(batch["images"]) for batch in self.batches)

    def fill(
        self,
        synthesiser: ImageSynthesiser,
        layouts: Layouts,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Make the batches that are missing.

        Args:
            synthesiser: Makes the images.
            layouts: Draws their objects.
            progress: Called with the number of further steps that are done.

        Raises:
            ConfigError: another process writes into the folder.
            DataError: a file cannot be written.
            NumericalError: the loss of a batch is not finite.
        """
        if self.path.is_dir() and is_locked(self.path):
            raise ConfigError(
                f"another process is writing to {self.path}: wait for it, or give another folder."
            )
        with _writing(self.path), locked(self.path):
            (self.path / IMAGES).mkdir(exist_ok=True)
            for folder in (self.path, self.path / IMAGES):
                remove_partial_files(folder)
            # Another process may have made some since.
            self.batches = self._read()
            self._write_log()
            # Of all images, whichever are done: what batches draw for themselves is not even over the run.
            drawn = layouts.draw(self.settings.images, np.random.default_rng(self.settings.layouts_seed()))
            for number, count in list(enumerate(self.settings.batches()))[len(self.batches) :]:
                own = drawn[self.images_done : self.images_done + count]
                made = synthesiser.make(own, self.settings.size, self.settings.image_seed(number), progress)
                self._add(made)
            self._write_annotations()

    def coco(self) -> dict[str, Any]:
        """Content of the COCO file of the images that are done."""
        height, width = self.settings.size
        images: list[dict] = []
        annotations: list[dict] = []
        for record in (image for batch in self.batches for image in batch["images"]):
            images.append(dict(id=len(images) + 1, file_name=record["file_name"], width=width, height=height))
            for left, top, right, bottom, label in record["objects"]:
                box = [left, top, round(right - left, 2), round(bottom - top, 2)]
                annotations.append(box_annotation(len(annotations) + 1, len(images), label + 1, box))
        info = dict(
            description="Images synthesised from a trained detector",
            config=self.settings.config,
            checkpoint=self.settings.checkpoint,
        )
        categories = [dict(id=number, name=name) for number, name in enumerate(self.settings.classes, 1)]
        return dict(info=info, images=images, annotations=annotations, categories=categories)

    def _read(self) -> list[dict[str, Any]]:
        """The records of the batches that are whole."""
        log = self.path / LOG
        try:
            lines = log.read_text(encoding="utf-8").split("\n")
        except (FileNotFoundError, NotADirectoryError):
            if self.path.exists() and (not self.path.is_dir() or any(self._foreign())):
                raise ConfigError(
                    f"{self.path} exists and holds no synthesised images: give another folder."
                ) from None
            return []
        records = list(_records(lines))
        theirs, ours = records[0].get("settings") if records else None, self.settings.plain()
        if not isinstance(theirs, dict):
            raise ConfigError(f"{log} is not the log of a synthesis: give another folder.")
        if "model" not in theirs:
            raise ConfigError(
                f"{self.path} was made by an earlier version, which drew other objects and did not record what its "
                "config's model was: give another folder."
            )
        compared = (ours | theirs).keys() - INFORMATION
        different = sorted(key for key in compared if ours.get(key) != theirs.get(key))
        if different:
            key = different[0]
            raise ConfigError(
                f"{self.path} was made with other settings ({', '.join(different)}; {key}: "
                f"{theirs.get(key)!r:.80}, now {ours.get(key)!r:.80}): give another folder, or the same settings."
            )
        whole = []
        for record in records[1:]:
            if not all((self.path / IMAGES / image["file_name"]).is_file() for image in record["images"]):
                break  # taken away: made again, with all that follow it
            whole.append(record)
        return whole

    def _foreign(self) -> Iterator[Path]:
        """What is in the folder besides what an interrupted start leaves."""
        for one in self.path.iterdir():
            if one.name == IMAGES and one.is_dir():
                yield from one.iterdir()
            elif not one.name.startswith("."):
                yield one

    def _add(self, made: SynthesisedBatch) -> None:
        first = self.images_done + 1
        images = []
        for number, (pixels, layout) in enumerate(zip(made.pixels.numpy(), made.layouts, strict=True), first):
            name = f"{number:06d}.png"
            write_whole(self.path / IMAGES / name, png(pixels))
            objects = [
                [*(round(value, 2) for value in box), label]
                for box, label in zip(layout.bboxes.tolist(), layout.labels.tolist(), strict=True)
            ]
            images.append(dict(file_name=name, objects=objects))
        self.batches.append(dict(images=images, before=asdict(made.before), after=asdict(made.after)))
        self._write_annotations()
        self._write_log()

    def _write_annotations(self) -> None:
        write_whole(self.path / ANNOTATIONS, json.dumps(self.coco()).encode())

    def _write_log(self) -> None:
        lines = [dict(settings=self.settings.plain()), *self.batches]
        write_whole(self.path / LOG, "".join(json.dumps(line) + "\n" for line in lines).encode())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise :class:`lad.errors.DataError` where a file cannot be written within the block."""
    try:
        yield
    except (OSError, CheckpointError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        raise DataError(
            f"cannot write to {path}: {cause.strerror or cause}: make room or give another folder; the batches that "
            "are done stay, and the same command goes on."
        ) from error


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of (H, W, 3) or (H, W, 1) uint8 pixels, red first."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()


def _records(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in filter(None, lines):
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        yield record
