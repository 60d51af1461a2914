"""Decode given queries with a DETR: the inputs of its decoder, and what decoder and head answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from lad.base.capture import Outputs
from lad.base.replace import replaced
from lad.methods.transformers.families import DecoderFamily, Queries, random_like

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import SampleList
from torch import Tensor


class Answers(NamedTuple):
    """Predictions of L decoder layers for Q queries of N images; a tuple, as :class:`Queries` is.

    Attributes:
        cls_scores: (L, N, Q, C) class logits.
        bbox_preds: (L, N, Q, 4) boxes cxcywh, relative to the image.
    """

    cls_scores: Tensor
    bbox_preds: Tensor


class Taught(NamedTuple):
    """Queries of a teacher and its answers to them."""

    queries: Queries
    answers: Answers


@contextmanager
def recording_decoder_inputs(model: BaseDetector) -> Iterator[dict[str, Any]]:
    """A context that records the arguments of a DETR's ``forward_decoder``: queries, memory, masks, valid ratios."""
    inputs: dict[str, Any] = {}
    forward_decoder = model.forward_decoder

    def recorded(**kwargs: Any) -> dict:
        inputs.update(kwargs)
        return forward_decoder(**kwargs)

    with replaced(model, "forward_decoder", recorded):
        yield inputs


def decoder_inputs(
    model: BaseDetector, outputs: Outputs, features: str, samples: SampleList
) -> dict[str, Tensor]:
    """The arguments of a DETR's ``forward_decoder`` at test time; its encoder runs, its decoder does not.

    Args:
        model: The detector.
        outputs: Where its features are, and the encoder's memory where a method has it captured.
        features: By which name.
        samples: Sizes of the images.
    """

    def compute() -> dict[str, Tensor]:
        with ExitStack() as stack:
            # A training DINO makes denoising queries, for which it draws random numbers and needs labels; both it and a
            # two-stage Deformable-DETR hand their head what its `forward` does not take.
            stack.enter_context(replaced(model, "training", False))
            # A peer's was computed with dropout: its encoder runs anew.
            if outputs.frozen and "encoder" in outputs:
                memory = outputs["encoder"]
                stack.enter_context(replaced(model.encoder, "forward", lambda *args, **kwargs: memory))
            encoder_inputs, inputs = model.pre_transformer(outputs[features], samples)
            made, _ = model.pre_decoder(**model.forward_encoder(**encoder_inputs))
        return inputs | made

    return _once(outputs, "inputs of the decoder", compute)


def decode_own(
    model: BaseDetector, outputs: Outputs, features: str, samples: SampleList
) -> dict[str, Tensor]:
    """Decode a DETR's own queries, as at test time.

    Args:
        model: The detector.
        outputs: Where its features are, and the encoder's memory where a method has it captured.
        features: By which name.
        samples: Sizes of the images.

    Returns:
        What its head is given: hidden states and reference points of each decoder layer.
    """
    inputs = decoder_inputs(model, outputs, features, samples)
    return _once(outputs, "decoded queries", lambda: model.forward_decoder(**inputs))


def answer_own(model: BaseDetector, outputs: Outputs, features: str, samples: SampleList) -> Answers:
    """The answers of a DETR's own queries, as at test time; arguments as of :func:`decode_own`."""
    decoded = decode_own(model, outputs, features, samples)
    return _once(outputs, "answers", lambda: Answers(*model.bbox_head(**decoded)))


def _once(outputs: Outputs, name: str, compute: Callable[[], Any]) -> Any:
    """What a frozen network computes of a batch, once for all methods that read it; a peer has dropout."""
    if not outputs.frozen:
        return compute()
    if name not in outputs:
        outputs.add(name, compute())
    return outputs[name]


def decode(model: BaseDetector, family: DecoderFamily, inputs: dict[str, Any], queries: Queries) -> Answers:
    """Decode queries with a DETR's memory of a batch.

    Args:
        model: The detector.
        family: Its family.
        inputs: Arguments of its ``forward_decoder`` for the batch; their queries are replaced.
        queries: The queries, of its own width.
    """
    return Answers(*model.bbox_head(**model.forward_decoder(**(inputs | family.place(model, queries)))))


def teach(
    model: BaseDetector,
    outputs: Outputs,
    features: str,
    family: DecoderFamily,
    samples: SampleList,
    specific: bool,
    noise: Queries | None,
) -> list[Taught]:
    """The teacher's queries for a batch and its answers to them, a set of queries at a time.

    Queries of one set do not attend to those of another: the teacher's own ones are answered as in detection.

    Args:
        model: The teacher's detector.
        outputs: Where its features are, and the encoder's memory where a method has it captured.
        features: By which name.
        family: Its family.
        samples: Sizes of the images.
        specific: Whether its own queries are a set.
        noise: What the random ones are made of; None for no such set.
    """
    inputs = decoder_inputs(model, outputs, features, samples)
    own = family.queries(inputs)
    sets = [Taught(own, answer_own(model, outputs, features, samples))] if specific else []
    if noise is not None:
        drawn = random_like(own, noise)
        sets.append(Taught(drawn, decode(model, family, inputs, drawn)))
    return sets


def pair_layers(student: int, teacher: int) -> list[int]:
    """For each decoder layer of a student, the teacher's layer that is as far from the first to the last one.

    The last layers are paired, and layers of the same number where there are equally many.

    Args:
        student, teacher: Numbers of decoder layers.

    Example:
        >>> from lad.methods.transformers.decoding import pair_layers
        >>> pair_layers(3, 6), pair_layers(6, 3), pair_layers(4, 6)
        ([1, 3, 5], [0, 0, 1, 1, 2, 2], [1, 2, 4, 5])
    """
    return [-(-(layer + 1) * teacher // student) - 1 for layer in range(student)]


def join(answers: Sequence[Answers]) -> Answers:
    """Put the answers to several sets of queries together."""
    return Answers(*(torch.cat(values, dim=2) for values in zip(*answers, strict=True)))
