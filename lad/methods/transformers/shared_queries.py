"""KD-DETR: queries that a DETR and its teacher share, and whose answers are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

from lad.base.draws import step_generator
from lad.base.settings import checked_flag, is_whole
from lad.errors import ConfigError, UnsupportedError
from lad.methods.base import Link, Step
from lad.methods.transformers.base import AnswerDistillation
from lad.methods.transformers.comparison import compare_answers
from lad.methods.transformers.decoding import (
    Answers,
    decode,
    join,
    pair_layers,
    recording_decoder_inputs,
    teach,
)
from lad.methods.transformers.families import FAMILIES, DecoderFamily, Queries, find_family
from lad.networks.connectors import LinearConnector
from lad.networks.routes import Teacher

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.model import ModuleDict
from torch import Tensor

OWNER = "SharedQueryDistillation"
#: Which of the teacher's decoder layers the student's learn from.
Layers = Literal["even", "last"]
#: The least width and height of a random box, as a part of the image's: DAB-DETR divides by them.
MIN_SIZE = 0.01


@MODELS.register_module()
class SharedQueryDistillation(AnswerDistillation):
    """Compare a DETR's answers with its teacher's to queries that both are given.

    Wang et al., "KD-DETR: Knowledge Distillation for Detection Transformer with Consistent Distillation Points
    Sampling", CVPR 2024, arXiv 2211.08071. The queries of two DETRs do not correspond, so their predictions for images
    cannot be compared one by one. Further queries that go through both decoders, each with its own network's memory of
    the image, have answers that correspond. They come from two sets:

    - *specific sampling*: the teacher's own queries, which see what it has learnt to look for. In two-stage DETRs and
      DINO they start from the teacher's proposals of the image;
    - *general sampling*: random ones, drawn anew for each image and step. Points are uniform in the image, as
      are widths and heights; learnt contents have the mean and standard deviation of the teacher's.

    With the teacher's foreground score w_i of query i, the largest class probability of its last layer:

    sum over the student's decoder layers of  sum_i w_i (L_cls + L_box + L_iou)_i / sum_i w_i.

    The paper's equation is a sum over queries; the division (over all processes) is ours, so that the loss does not
    grow with the number of queries. The sets go through the decoders one by one, as in the authors' code: random
    queries change no answer of the teacher's own. The student's own loss, its queries, its denoising queries and its
    inference are as they were: the second pass of its decoder is made in training only, after its own loss.

    What a decoder is given depends on the kind of DETR (student and teacher must be of the same):

    - ``DeformableDETR``: learnt contents and positions, starting from points;
    - ``DeformableDETR(as_two_stage=True)``: boxes; each network makes contents and positions of them;
    - ``DINO``: learnt contents, starting from boxes;
    - ``DABDETR``: boxes.

    Points and boxes are shared as they are. Learnt vectors of another width go through a linear layer that is trained
    with the student. Numbers of queries, feature levels, encoder and decoder layers may differ.

    Args:
        specific: Whether the teacher's own queries are a set.
        num_random: Number of random queries, 0 for none.
        layers: ``'even'``: decoder layers of student and teacher are paired evenly, the last with the last (layer by
            layer where they have equally many). ``'last'``: all learn from the teacher's last one, as in the authors'
            code.
        loss_cls: Loss of the class logits, binary for each class: ``KDLoss``, ``FocalKLLoss`` or ``QualityKDLoss``,
            summed over classes.
        loss_bbox: ``L1Loss`` (by default, with DETR's weight of 5) or ``SmoothL1Loss`` of boxes cxcywh relative to the
            image.
        loss_iou: ``GIoULoss`` (by default, with DETR's weight of 2) or another IoU loss of boxes.
        classes: The student's class names, in its order, where the teacher's are others or in another order: they are
            looked up by name in the teacher's checkpoint.
        loss_name: What the names of the three losses begin with.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is out of range.
        UnsupportedError: the detectors are no DETRs of the same known kind, or classify by softmax.
    """

    def __init__(
        self,
        specific: bool = True,
        num_random: int = 300,
        layers: Layers = "even",
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        loss_iou: dict | None = None,
        classes: Sequence[str] | None = None,
        loss_name: str = "loss_shared",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(loss_cls, loss_bbox, loss_iou, classes, loss_name, init_cfg)
        if not is_whole(num_random) or num_random < 0:
            raise ConfigError(f"{OWNER}: num_random must be a number of queries, got {num_random!r:.60}.")
        if not specific and not num_random:
            raise ConfigError(f"{OWNER}: specific=False and num_random=0 leave no query to share; set one.")
        if layers not in get_args(Layers):
            raise ConfigError(f"{OWNER}: layers must be 'even' or 'last', got {layers!r:.60}.")
        self.specific = checked_flag(OWNER, "specific", specific)
        self.num_random = num_random
        self.layers = layers

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse DETRs whose decoders cannot share queries; build connectors; pair the decoder layers."""
        self.family = check_family(OWNER, student, teacher.model)
        widths = teacher.model.embed_dims, student.embed_dims
        self.width = widths[0]
        self.connectors = ModuleDict(
            {name: LinearConnector(*widths) for name in self.family.contents if widths[0] != widths[1]}
        )
        numbers = student.decoder.num_layers, teacher.model.decoder.num_layers
        pairs = pair_layers(*numbers) if self.layers == "even" else [numbers[1] - 1] * numbers[0]
        self.bind_answers(student, teacher, pairs)

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: a decoder is given the memory that the student's own loss computes."""
        raise UnsupportedError(
            f"student_loss=False: {OWNER} shares queries with the decoder of the student's own loss, and leaves its "
            "own queries untrained; train with labels, or use DetectionDistillation."
        )

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record what the student's decoder is given."""
        with recording_decoder_inputs(step.student) as step.observations[self]:
            yield

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The losses of classes, boxes and overlaps; gradients reach the student and the connectors."""
        sets = step.teacher.evaluate(
            teach, self.features, self.family, step.data_samples, self.specific, self._noise(step)
        )
        inputs = step.observations.pop(self)
        student = join(
            [decode(step.student, self.family, inputs, self._of_students_width(one.queries)) for one in sets]
        )
        teacher = join([one.answers for one in sets])
        teacher = Answers(*(values.index_select(0, self.pairs) for values in teacher))
        values = compare_answers(self.compared, student, self.of_students_classes(teacher), step.data_samples)
        return self.named(values)

    def _noise(self, step: Step) -> Queries | None:
        """What random queries are made of: drawn here and not by the teacher, others for the images of each process."""
        if not self.num_random:
            return None
        shape, device = (len(step.data_samples), self.num_random), step.inputs.device
        generator = step_generator(step.progress.iteration, device, each_process=True)
        coordinates = torch.rand(*shape, self.family.num_coordinates, device=device, generator=generator)
        centres, sizes = coordinates.tensor_split((2,), dim=2)
        return Queries(
            torch.cat([centres, sizes.clamp(min=MIN_SIZE)], dim=2),
            {
                name: torch.randn(*shape, self.width, device=device, generator=generator)
                for name in self.family.contents
            },
        )

    def _of_students_width(self, queries: Queries) -> Queries:
        contents = {name: values.float() for name, values in queries.contents.items()}
        for name, connector in self.connectors.items():
            contents[name] = connector(contents[name])
        return Queries(queries.positions.float(), contents)

    def links(self) -> list[Link]:
        """One, of the two decoders."""
        return [Link("decoder", "decoder", "shared queries")]


def check_family(owner: str, student: BaseDetector, teacher: BaseDetector) -> DecoderFamily:
    """The family of both.

    Raises:
        UnsupportedError: one is of another family than the other, or of none.
    """
    families = find_family(student), find_family(teacher)
    if families[0] is None or families[1] is not families[0]:
        kinds = [
            family.name if family is not None else type(detector).__name__
            for family, detector in zip(families, (student, teacher), strict=True)
        ]
        *others, last = (family.name for family in FAMILIES)
        raise UnsupportedError(
            f"{owner}: a {kinds[0]} student cannot share queries with a {kinds[1]} teacher: it "
            f"works for two of the same kind out of {', '.join(others)} and {last}; between others use "
            "DetectionDistillation, or FeatureDistillation of the neck."
        )
    return families[0]
