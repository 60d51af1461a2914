"""Cache on disk of what a frozen teacher computed for an image.

With a fixed teacher, what a method needs of it is a function of the image. A record is kept under a
fingerprint of the image's pixels and its ground truth after the data pipeline, so resized and flipped images differ
by their pixels, and anything random (colour, mosaic, crops) simply misses.

Layout: a folder a teacher, in it one append-only file a process. A record is its header (magic, fingerprint, length,
checksum) and its payload. A record that a killed process left torn fails its checksum and is a miss.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from inspect import signature
from io import FileIO
from pathlib import Path
from typing import Any

from lad.base.settings import is_number, is_whole
from lad.errors import ConfigError, nearest

import torch
from mmdet.structures import DetDataSample
from mmengine.logging import print_log
from torch import Tensor, nn

HEADER = struct.Struct("<4s16sII")  # magic, fingerprint, payload length, checksum
MAGIC = b"LAD1"
FINGERPRINT = "lad_fingerprint"  # key of the metadata
# How often other processes' files are looked at for new records.
REFRESH_SECONDS = 5.0


def fingerprint(image: Tensor, sample: DetDataSample) -> bytes:
    """16 bytes that name an image's pixels and ground truth.

    Args:
        image: The image as the data loader gives it, on the CPU, before normalisation and padding.
        sample: Its ground truth (``bboxes``, ``labels``), on the CPU.
    """
    digest = hashlib.sha256()  # processors have instructions for it
    digest.update(repr((tuple(image.shape), str(image.dtype))).encode())
    digest.update(_bytes(image))
    for instances in (sample.gt_instances, sample.get("ignored_instances")):
        if instances is not None:
            boxes = instances.bboxes
            digest.update(_bytes(getattr(boxes, "tensor", boxes)))
            digest.update(_bytes(instances.labels))
    return digest.digest()[:16]


def take_fingerprints(preprocessor: nn.Module, args: tuple, kwargs: dict) -> None:
    """Forward pre-hook (with keywords) of a data preprocessor: note each training image's fingerprint.

    This is the last moment at which the pixels are on the host as the pipeline left them. MMEngine's models pass
    ``training`` by position, its wrappers for several processes by keyword.
    """
    data = args[0] if args else kwargs["data"]
    training = kwargs.get("training", args[1] if len(args) > 1 else False)
    if training and isinstance(data, dict):
        for image, sample in zip(data["inputs"], data["data_samples"], strict=True):
            sample.set_metainfo({FINGERPRINT: fingerprint(image, sample)})


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).numpy().data.cast("B")


def hash_of(module: nn.Module, *settings: object) -> str:
    """Hash of a network's weights together with settings that its outputs depend on."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(_bytes(value.view(torch.int16) if value.dtype == torch.bfloat16 else value))
    return digest.hexdigest()[:24]


def check_options(max_gb: float = 8.0, patience: int = 2000, report_every: int = 5000) -> None:
    """Refuse options of :class:`TeacherCache` that are out of range.

    Raises:
        ConfigError: names the option.
    """
    if not is_number(max_gb) or max_gb <= 0:
        raise ConfigError(f"teacher cache: max_gb must be a positive number, got {max_gb!r:.60}.")
    for name, value in dict(patience=patience, report_every=report_every).items():
        if not is_whole(value) or value < 1:
            raise ConfigError(f"teacher cache: {name} must be a number of look-ups, got {value!r:.60}.")


def check_settings(owner: str, settings: Any, others: Iterable[str] = ()) -> None:
    """Refuse a ``cache=dict(dir=FOLDER, ...)`` that is none.

    Args:
        owner: What to call its owner in messages.
        settings: What a config gives: ``dir``, with options of :class:`TeacherCache`.
        others: Names of the owner's own options.

    Raises:
        ConfigError: there is no folder, or an option is unknown or out of range.
    """
    folder = settings.get("dir") if isinstance(settings, dict) else None
    if not folder or not isinstance(folder, (str, Path)):
        raise ConfigError(f"{owner}: cache must be dict(dir=FOLDER, max_gb=8.0, ...), got {settings!r:.80}.")
    options = {key: value for key, value in settings.items() if key not in ("dir", *others)}
    known = signature(check_options).parameters
    for name in options.keys() - known.keys():
        raise ConfigError(f"{owner}: cache has no option {name!r}{nearest(name, [*known, *others])}.")
    check_options(**options)


@dataclass
class CacheStatistics:
    """Statistics of a cache in this process.

    Attributes:
        hits, misses: Look-ups that found a record, and that did not.
        repeats: Look-ups of an image id that was looked up before; only those could have hit.
        repeat_hits: Hits among them.
    """

    hits: int = 0
    misses: int = 0
    repeats: int = 0
    repeat_hits: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of look-ups that found a record."""
        return self.hits / max(self.hits + self.misses, 1)


class TeacherCache:
    """Payloads by fingerprint, in memory-mapped files that the processes of a node share.

    Args:
        folder: Where to keep the files; made if it is not there. Give every teacher its own (see :func:`hash_of`).
        max_gb: Bound on the size of all files of the folder. A full cache is read and not written.
        patience: Turn off when so many look-ups of images seen before have found next to nothing (under 1 %): a
            pipeline with random transforms never shows the same pixels twice.
        report_every: Write hit rate and size to the log every so many look-ups.

    Raises:
        ConfigError: an option is out of range, or the folder cannot be made.
    """

    def __init__(
        self, folder: str | Path, max_gb: float = 8.0, patience: int = 2000, report_every: int = 5000
    ) -> None:
        check_options(max_gb, patience, report_every)
        self.folder = Path(folder)
        self.max_bytes = int(max_gb * 1e9)
        self.patience = patience
        self.report_every = report_every
        self.statistics = CacheStatistics()
        self.enabled = True
        self._places: dict[bytes, tuple[Path, int, int]] = {}
        self._scanned: dict[Path, int] = {}
        #: Size that each file had when it was scanned last.
        self._sizes: dict[Path, int] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        self._seen: set[object] = set()
        self._file: FileIO | None = None
        self._refreshed = 0.0
        self._full = False
        self._known_size = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"teacher cache: the folder {self.folder} cannot be made ({error.strerror}); give another dir."
            ) from error

    # -- reading -----------------------------------------------------------------------------------------------

    def get(self, key: bytes, image_id: object = None) -> bytes | None:
        """The payload of a fingerprint, or None; ``image_id`` lets the cache notice that nothing ever repeats."""
        if not self.enabled:
            return None
        if key not in self._places:
            self._refresh()
        place = self._places.get(key)
        payload = self._read(*place) if place is not None else None
        self._count(payload is not None, image_id)
        return payload

    def _read(self, path: Path, start: int, length: int) -> bytes | None:
        try:
            content = self._maps.get(path)
            if content is None or len(content) < start + length:
                with path.open("rb") as file:
                    content = self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # the folder was cleaned, or the file cut short: no record
            return None
        payload = content[start : start + length]
        return payload if len(payload) == length else None

    def _refresh(self) -> None:
        """Index what this and other processes have appended since the last refresh."""
        if time.monotonic() - self._refreshed < REFRESH_SECONDS and self._refreshed:
            return
        self._refreshed = time.monotonic()
        sizes = {path: path.stat().st_size for path in sorted(self.folder.glob("*.bin"))}
        self._known_size = sum(sizes.values())
        for path, size in sizes.items():
            if size > max(self._sizes.get(path, 0), self._scanned.get(path, 0)):
                self._sizes[path] = size
                self._scan(path)

    def _scan(self, path: Path) -> None:
        """Index the records behind those that are known; a record at a time is in memory."""
        offset = self._scanned.get(path, 0)
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                while offset + HEADER.size <= len(content):
                    magic, key, length, checksum = HEADER.unpack_from(content, offset)
                    start = offset + HEADER.size
                    if magic != MAGIC or start + length > len(content):
                        break  # torn, or still being written: nothing after it is believed
                    # A damaged record is passed over: where the next one begins is known.
                    if _checksum(key, content[start : start + length]) == checksum:
                        self._places[key] = (path, start, length)
                    offset = start + length
        except (OSError, ValueError):  # the folder was cleaned, or the file cut short, meanwhile
            return
        self._scanned[path] = offset

    # -- writing -----------------------------------------------------------------------------------------------

    def put(self, key: bytes, payload: bytes) -> None:
        """Store a payload; does nothing when the cache is off, full or has it."""
        if not self.enabled or self._full or key in self._places:
            return
        record = HEADER.pack(MAGIC, key, len(payload), _checksum(key, payload)) + payload
        if self._known_size + len(record) > self.max_bytes:
            self._stop_writing(f"full at {self._known_size / 1e9:.2f} GB")
            return
        try:
            if self._file is None:
                # A file of its own for each process: no process waits, and a torn end is never written after.
                name = f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}.bin"
                self._path = self.folder / name
                self._file = self._path.open("ab", buffering=0)
            start = self._file.tell() + HEADER.size
            written = self._file.write(record)
        except OSError as error:
            self._stop_writing(str(error))
            return
        if written != len(record):
            self._stop_writing("the disk is full")
            return
        self._known_size += len(record)
        self._places[key] = (self._path, start, len(payload))
        self._scanned[self._path] = start + len(payload)

    def _stop_writing(self, reason: str) -> None:
        self._full = True
        message = f"teacher cache: stores nothing more, {reason} ({self.folder})"
        print_log(message, "current", logging.WARNING)

    def size(self) -> int:
        """Bytes of all files in the folder."""
        return sum(path.stat().st_size for path in self.folder.glob("*.bin"))

    # -- statistics -----------------------------------------------------------------------------------------------

    def _count(self, hit: bool, image_id: object) -> None:
        statistics = self.statistics
        statistics.hits += hit
        statistics.misses += not hit
        if image_id is not None:
            if image_id in self._seen:
                statistics.repeats += 1
                statistics.repeat_hits += hit
            self._seen.add(image_id)
        if (statistics.hits + statistics.misses) % self.report_every == 0:
            print_log(f"teacher cache: {self}", "current")
        if statistics.repeats >= self.patience and statistics.repeat_hits < 0.01 * statistics.repeats:
            self.enabled = False
            print_log(
                f"teacher cache: turned off, {statistics.repeats} images came again and none looked the same: "
                "the pipeline changes them at random.",
                "current",
                logging.WARNING,
            )

    def __str__(self) -> str:
        size = self.size()
        return (
            f"{self.statistics.hit_rate:.1%} of {self.statistics.hits + self.statistics.misses} look-ups hit, "
            f"{len(self._places)} images in {size / 1e6:.1f} MB ({self.folder})"
        )

    def __deepcopy__(self, memo: dict) -> TeacherCache:
        return self  # an EMA copy is never trained, and files are not copied


def _checksum(key: bytes, payload: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key + payload, digest_size=4).digest(), "little")
