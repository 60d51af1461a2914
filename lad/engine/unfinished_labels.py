"""The file of detections of an unfinished labelling run, and whether a run may go on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError, DataError, listed

#: Ending of the file in which an unfinished run keeps its detections, a line of JSON for each batch.
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class LabellingParameters:
    """What the labels depend on; a run is resumed with the same ones only.

    Attributes:
        config: Path of the detector's config, which is told and not compared.
        settings: SHA-256 of the config with its options, as text.
        checkpoint: SHA-256 of the checkpoint.
        folder: The folder of the images, absolute.
        images: :func:`lad.engine.labelling.images_fingerprint`.
        min_score: Detections below are left out.
        max_per_image: The best so many detections of an image are kept.
        batch_size: Images that are detected on at once; they are padded to one size.
    """

    config: str
    settings: str
    checkpoint: str
    folder: str
    images: str
    min_score: float
    max_per_image: int
    batch_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score must be from 0 to 1, got {self.min_score}.")
        if self.max_per_image < 1 or self.batch_size < 1:
            raise ConfigError(
                "max_per_image and batch_size must be at least 1, got "
                f"{self.max_per_image} and {self.batch_size}."
            )


def read_unfinished(
    path: Path, parameters: LabellingParameters, images: Sequence[int]
) -> dict[int, list[dict]]:
    """Detections of an interrupted run by image id; the file is begun where there is none.

    Args:
        path: The file.
        parameters: Of this run.
        images: Ids of all images, in the order in which they are detected on.

    Raises:
        ConfigError: it is of another run.
        DataError: it is damaged.
    """
    own = asdict(parameters)
    damaged = f"{path} is damaged: delete it to begin anew."
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        write_whole(path, (json.dumps(own) + "\n").encode())
        return {}
    except UnicodeDecodeError as error:
        raise DataError(damaged) from error
    _check_same_run(path, lines[0], own)
    # The last line is empty, or was being written when the run was killed.
    write_whole(path, "".join(line + "\n" for line in lines[:-1]).encode())
    try:
        done = {number: found for line in lines[1:-1] for number, found in json.loads(line)}
    except (ValueError, TypeError) as error:
        raise DataError(damaged) from error
    if list(done) != list(images[: len(done)]):
        raise DataError(damaged)
    return done


def _check_same_run(path: Path, header: str, own: Mapping[str, Any]) -> None:
    """Refuse the first line of an unfinished file that does not say that its run is this one."""
    try:
        found = json.loads(header)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged: delete it to begin anew.")
    if set(found) != set(own):
        raise ConfigError(
            f"{path} is of a run with another version of lad, which told other things of it: finish that one with that "
            "version, or delete the file."
        )
    # The config's path is no part of what it says.
    differing = [name for name in own if name != "config" and found[name] != own[name]]
    if differing:
        raise ConfigError(
            f"{path} is of a run with another checkpoint, other images or options ({listed(differing, 8)} differ): "
            "finish that one, or delete the file."
        )
