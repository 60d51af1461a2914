"""A frozen teacher that keeps on disk what its modules put out for an image."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lad.base.capture import Outputs, root_of
from lad.errors import UnsupportedError
from lad.networks.batch_memory import BatchMemory, precision_of, settings_of_images
from lad.networks.cache import FINGERPRINT, TeacherCache, check_settings, hash_of
from lad.networks.forward import DENSE_HEADS
from lad.networks.frozen import FrozenTeacher
from lad.networks.preprocessing import Renormalisation
from lad.networks.speed import TeacherSpeed

import torch
from mmdet.models.detectors import BaseDetector, DetectionTransformer
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

#: What a module put out for one image: by name its calls, any nesting of tensors without the dimension of the images.
Record = dict[str, list[Any]]


class RememberedTeacher(FrozenTeacher):
    """A frozen teacher whose outputs are read from disk for images that it has seen before.

    A record is found by the image's pixels and objects after the data pipeline (:func:`lad.networks.cache.fingerprint`)
    and the size to which its batch is padded, and holds every output as it was computed, in its data type: methods get
    what the teacher put out, to the bit where an image is alone in what is computed anew, and to the rounding of
    another batch size else. The teacher runs for the images of a batch that have no record, and not at all where all
    have one. Its heads, where methods run them on the outputs, run as always.

    Records of other weights, configs, options, precisions or modules are in other folders.

    Args:
        model, renormalisation, classes, config, speed: As of :class:`FrozenTeacher`.
        student: The detector whose images it is shown.
        settings: ``dict(dir=FOLDER)``, with options of :class:`lad.networks.cache.TeacherCache`.
        role: What to call it in messages.

    Raises:
        ConfigError: there is no folder, or an option is wrong.
        UnsupportedError: images are changed after they have been recognised.
    """

    needs_fingerprints = True

    def __init__(
        self,
        model: BaseDetector,
        renormalisation: Renormalisation,
        classes: tuple[str, ...] | None,
        config: dict | None,
        speed: TeacherSpeed | None,
        student: BaseDetector,
        settings: dict,
        role: str,
    ) -> None:
        super().__init__(model, renormalisation, classes, config, speed)
        check_settings(role, settings)
        self.role = role
        self._folder = Path(settings["dir"])
        self._settings = {key: value for key, value in settings.items() if key != "dir"}
        self._of_images = settings_of_images(role, student)
        self._caches: dict[tuple[str, ...], TeacherCache] = {}

    def run(self, inputs: Tensor, data_samples: SampleList, modules: Iterable[str]) -> Outputs:
        """Outputs of the named modules, of records where there are some; without gradient."""
        modules = tuple(modules)
        if not modules:
            return Outputs()

        def compute(images: Sequence[int]) -> list[Record]:
            samples = [data_samples[image] for image in images]
            found = super(RememberedTeacher, self).run(inputs[list(images)], samples, modules)
            return self._split({name: found.calls(name) for name in modules}, len(images))

        records = self._recall(inputs, data_samples, modules, compute)
        outputs = Outputs()
        for name in modules:
            for calls in zip(*(record[name] for record in records), strict=True):
                outputs.add(name, tree_map(_joined(inputs.device), *calls))
        return outputs

    def detect(
        self, inputs: Tensor, data_samples: SampleList, features: Any | None = None
    ) -> list[InstanceData]:
        """Detections in each image, of records where there are some; see :meth:`FrozenTeacher.detect`."""

        def compute(images: Sequence[int]) -> list[Record]:
            samples = [data_samples[image] for image in images]
            maps = tree_map_only(Tensor, lambda value: value[list(images)], features)
            found = super(RememberedTeacher, self).detect(inputs[list(images)], samples, maps)
            return [{name: [value] for name, value in one.items()} for one in found]

        records = self._recall(inputs, data_samples, ("detections",), compute)
        detections = []
        for record in records:
            own = {name: value for name, [value] in record.items()}
            # The scores are on the host.
            moved = {name: own[name].to(inputs.device, non_blocking=True) for name in ("bboxes", "labels")}
            detections.append(InstanceData(**moved, scores=own["scores"]))
        return detections

    def check_modules(self, modules: Iterable[str]) -> None:
        """See :meth:`FrozenTeacher.check_modules`; refuses outputs that are not one an image."""
        modules = tuple(modules)
        super().check_modules(modules)
        heads = () if isinstance(self.model, DetectionTransformer) else DENSE_HEADS
        for name in modules:
            if root_of(name) not in ("backbone", "neck", *heads):
                raise UnsupportedError(
                    f"{self.role}: cache keeps outputs of {', '.join(('backbone', 'neck', *heads))}, one an image; "
                    f"leave it out for a method that reads {name!r}."
                )

    def _recall(
        self,
        inputs: Tensor,
        samples: SampleList,
        parts: tuple[str, ...],
        compute: Callable[[Sequence[int]], list[Record]],
    ) -> list[Record]:
        """The record of each image: kept ones, and those of the other images, which are computed and kept."""
        if not any(FINGERPRINT in sample.metainfo for sample in samples):
            # Images that no data pipeline made, as those of a dry run: nothing is written.
            return compute(range(len(samples)))
        memory = BatchMemory(self._cache(parts), samples, same_padding=True, precision=precision_of(inputs))
        records = [None if payload is None else _decoded(payload) for payload in memory.records]
        missing = [image for image, record in enumerate(records) if record is None]
        if missing:
            found = compute(missing)
            for image, record in zip(missing, found, strict=True):
                records[image] = record
            memory.remember(missing, [_encoded(record) for record in found])
        return [record for record in records if record is not None]

    def _cache(self, parts: tuple[str, ...]) -> TeacherCache:
        if parts not in self._caches:
            name = hash_of(self.model, self.config, self.speed, self._of_images, parts)
            self._caches[parts] = TeacherCache(self._folder / name, **self._settings)
        return self._caches[parts]

    def _split(self, outputs: Record, count: int) -> list[Record]:
        """The outputs of each of so many images."""
        for name, calls in outputs.items():
            for leaf in tree_leaves(calls):
                if isinstance(leaf, Tensor) and (leaf.dim() == 0 or len(leaf) != count):
                    raise UnsupportedError(
                        f"{self.role}: cache: {name!r} puts out a tensor of {tuple(leaf.shape)} for {count} images, "
                        "not one an image; leave out cache."
                    )

        def of_image(image: int) -> Record:
            return tree_map_only(Tensor, lambda leaf: leaf[image], outputs)

        return [of_image(image) for image in range(count)]


def _joined(device: torch.device) -> Callable[..., Any]:
    """Joins the values of a leaf of all images: tensors are stacked, others are the first's."""

    def join(*leaves: Any) -> Any:
        if not isinstance(leaves[0], Tensor):
            return leaves[0]
        return torch.stack([leaf.to(device, non_blocking=True) for leaf in leaves])

    return join


def _encoded(record: Record) -> bytes:
    # A view of a batch would be written with all of the batch.
    own = tree_map_only(Tensor, lambda leaf: leaf.detach().cpu().clone(), record)
    buffer = io.BytesIO()
    torch.save(own, buffer)
    return buffer.getvalue()


def _decoded(payload: bytes) -> Record:
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
