"""What a config's test pipeline does to the pixels of an image, where an exported file can do the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lad.datasets.bad_images import LoadCheckedImageFromFile
from lad.datasets.configured import transform_type
from lad.errors import ConfigError, UnsupportedError, listed

from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmcv.transforms import Pad as MmcvPad
from mmcv.transforms import Resize as MmcvResize
from mmdet.datasets.transforms import (
    FixScaleResize,
    LoadEmptyAnnotations,
    LoadImageFromNDArray,
    LoadTextAnnotations,
    PackDetInputs,
    Pad,
    Resize,
)
from mmengine.config import Config

#: Steps that leave the pixels alone; what is derived from them does too.
_OTHER = (LoadAnnotations, LoadEmptyAnnotations, LoadTextAnnotations, PackDetInputs)
#: Steps that decode, resize and pad. No subclasses: what those do is not known.
_LOAD, _RESIZE, _PAD = (
    (LoadImageFromFile, LoadImageFromNDArray, LoadCheckedImageFromFile),
    (Resize, MmcvResize, FixScaleResize),
    (Pad, MmcvPad),
)
#: Options that change the pixels, with the values that an exported file can follow. Others of these are read.
_OPTIONS: dict[tuple[type, ...], dict[str, tuple]] = {
    _LOAD: dict(
        to_float32=(False,),
        color_type=("color", "color_ignore_orientation"),
        imdecode_backend=("cv2", "turbojpeg", "pillow", None),
    ),
    _RESIZE: dict(backend=("cv2", None), interpolation=("bilinear",)),
    _PAD: dict(padding_mode=("constant",)),
}
_READ: dict[tuple[type, ...], set[str]] = {
    _LOAD: {"file_client_args", "backend_args", "ignore_empty", "on_error", "max_skips"},
    _RESIZE: {"scale", "scale_factor", "keep_ratio", "clip_object_border"},
    _PAD: {"size", "size_divisor", "pad_to_square", "pad_val"},
}
_WORKS = "an exported file loads, resizes once (Resize: cv2, bilinear), then pads once (Pad: constant)"


@dataclass(frozen=True)
class PixelSteps:
    """The steps of a test pipeline that change an image's size, as configs.

    Attributes:
        resize: The ``Resize``; None without one.
        pad: The ``Pad`` after it; None without one.
    """

    resize: dict | None
    pad: dict | None


def pixel_steps(cfg: Config) -> PixelSteps:
    """The steps of the test pipeline of a config, all of which an exported file can follow.

    Raises:
        UnsupportedError: a step, or an option of one, does to the pixels what a file cannot; names it.
    """
    pipelines = list(_pipelines(((cfg.get("test_dataloader") or {}).get("dataset")) or {}))
    found = [_read(pipeline) for pipeline in pipelines]
    if any(steps != found[0] for steps in found):
        raise UnsupportedError(
            "the data sets of test_dataloader resize or pad in different ways: a file has one; give them one pipeline."
        )
    return found[0]


def _pipelines(dataset: Mapping) -> Iterator[list[dict]]:
    """The pipeline of each innermost data set, with the steps of its wrappers behind its own."""
    own = list(dataset.get("pipeline") or ())
    inner = dataset.get("datasets") or ([dataset["dataset"]] if dataset.get("dataset") else [])
    if not inner:
        yield own
    for wrapped in inner:
        for pipeline in _pipelines(wrapped):
            yield [*pipeline, *own]


def _read(pipeline: list[dict]) -> PixelSteps:
    resize = pad = None
    for step in pipeline:
        kind = transform_type(step) if isinstance(step, Mapping) and "type" in step else None
        if kind is not None and issubclass(kind, _OTHER):
            continue
        family = next((family for family in _OPTIONS if kind in family), None)
        if family is None:
            raise UnsupportedError(
                f"the test pipeline's {_name(step)} is no part of an exported file: {_WORKS}; take the step out of "
                "test_dataloader.dataset.pipeline, and do it before the file."
            )
        _check_options(step, family)
        if family is _RESIZE:
            if kind is FixScaleResize and step.get("keep_ratio"):
                raise UnsupportedError(
                    "the test pipeline's FixScaleResize(keep_ratio=True) rounds sizes down, an exported file to the "
                    "nearest: use Resize."
                )
            if resize is not None or pad is not None:
                raise UnsupportedError(
                    f"the test pipeline's {'second Resize' if pad is None else 'Resize after a Pad'} is no part of an "
                    f"exported file: {_WORKS}."
                )
            resize = dict(step)
        elif family is _PAD:
            if pad is not None:
                raise UnsupportedError(
                    f"the test pipeline's second Pad is no part of an exported file: {_WORKS}."
                )
            pad = dict(step)
    return PixelSteps(resize, pad)


def _check_options(step: Mapping, family: tuple[type, ...]) -> None:
    allowed = _OPTIONS[family]
    for option, value in step.items():
        if option == "type" or option in _READ[family]:
            continue
        if option not in allowed:
            known = sorted({*allowed, *_READ[family]})
            raise ConfigError(
                f"the test pipeline's {_name(step)} has no option {option!r}: it has {listed(known, 9)}."
            )
        if value not in allowed[option]:
            works = " or ".join(repr(one) for one in allowed[option] if one is not None)
            raise UnsupportedError(
                f"the test pipeline's {_name(step)}({option}={value!r}) is no part of an exported file: {option} must "
                f"be {works}."
            )


def _name(step: object) -> str:
    kind = step.get("type") if isinstance(step, Mapping) else type(step)
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
