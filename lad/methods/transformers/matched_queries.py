"""A DETR learns its teacher's predictions, matched with its own one to one."""

from __future__ import annotations

from collections.abc import Sequence

from lad.base.capture import Outputs
from lad.base.settings import is_number, is_whole
from lad.errors import ConfigError, UnsupportedError
from lad.methods.base import Link, Step
from lad.methods.transformers.base import AnswerDistillation
from lad.methods.transformers.comparison import compare_answers, foreground
from lad.methods.transformers.decoding import Answers, answer_own, pair_layers
from lad.methods.transformers.matching import gather, match, pair_costs
from lad.networks.routes import Teacher

from mmdet.models.detectors import DABDETR, DINO, BaseDetector, ConditionalDETR, DeformableDETR
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from torch import Tensor

OWNER = "MatchedQueryDistillation"
#: Detectors whose head gives the predictions of every decoder layer in the same form.
KINDS = (DeformableDETR, DINO, DABDETR, ConditionalDETR)


@MODELS.register_module()
class MatchedQueryDistillation(AnswerDistillation):
    """A DETR learns its teacher's predictions; Hungarian matching says which query learns which.

    The form that is built is the matching of positive predictions of Chang et al., "DETRDistill: A Universal Knowledge
    Distillation Framework for DETR-families", ICCV 2023, arXiv 2211.10156, section 3.1, with soft scores:

    - of the teacher's predictions in its last decoder layer the ``num_queries`` of the highest scores w_k take part,
      from ``min_score`` on;
    - in each decoder layer they are matched one to one with the student's own queries, so that
      sum_k w_k cost(k, its query) is least, with the cost :func:`lad.methods.transformers.matching.pair_costs`, whose
      factors are those of the losses;
    - sum over layers of  sum_k w_k (L_cls + L_box + L_iou) / sum_k w_k, with the teacher's class probabilities (not its
      best class) as targets. Division as in :class:`SharedQueryDistillation`.

    Not built: the paper's matching of negative predictions, whose boxes have no objects: the student's own loss says
    that they are background. Student and teacher may be different kinds of DETR with any widths, numbers of
    queries, levels and layers, since only predictions are compared; the student's decoder runs once. A detection
    that an object's own matching gives to another query is taught to that one too: such disagreement is what
    :class:`SharedQueryDistillation` avoids.

    Args:
        num_queries: How many of the teacher's predictions of an image take part at most, at least 1.
        min_score: Predictions below take no part.
        loss_cls, loss_bbox, loss_iou: As of :class:`SharedQueryDistillation`.
        classes: The student's class names, in its order, where the teacher's are others or in another order.
        loss_name: What the names of the three losses begin with.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is out of range.
        UnsupportedError: a detector is no DETR of a known kind, or classifies by softmax.
    """

    student_modules = ("bbox_head",)

    def __init__(
        self,
        num_queries: int = 100,
        min_score: float = 0.1,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        loss_iou: dict | None = None,
        classes: Sequence[str] | None = None,
        loss_name: str = "loss_matched",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(loss_cls, loss_bbox, loss_iou, classes, loss_name, init_cfg)
        if not is_whole(num_queries) or num_queries < 1:
            raise ConfigError(
                f"{OWNER}: num_queries must be a number of predictions, got {num_queries!r:.60}."
            )
        if not is_number(min_score) or not 0 <= min_score < 1:
            raise ConfigError(f"{OWNER}: min_score must be from 0 to below 1, got {min_score!r:.60}.")
        self.num_queries = num_queries
        self.min_score = min_score

    def bind(self, student: BaseDetector, teacher: Teacher) -> None:
        """Refuse detectors whose predictions are not those of queries, layer by layer; pair the decoder layers."""
        for role, detector in (("student", student), ("teacher", teacher.model)):
            _check_kind(role, detector)
        pairs = pair_layers(student.decoder.num_layers, teacher.model.decoder.num_layers)
        self.bind_answers(student, teacher, pairs)

    def check_without_labels(self, student: BaseDetector) -> None:
        """Refused: queries that no prediction is matched with would not learn that they are background."""
        raise UnsupportedError(
            f"student_loss=False: {OWNER} teaches the queries that are matched, and the student's own loss those that "
            "are background; train with labels, or use DetectionDistillation."
        )

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The losses of classes, boxes and overlaps; gradients reach the student."""
        taught, weight = step.teacher.evaluate(self.predictions, self.features, step.data_samples)
        student = _own_queries(step.student, Answers(*step.outputs["bbox_head"]))
        # A student of fewer queries learns the best predictions: they come first.
        count = min(student.cls_scores.shape[2], weight.shape[1])
        taught, weight = Answers(*(values[:, :, :count] for values in taught)), weight[:, :count]
        costs = pair_costs(student, taught, step.data_samples, *self.factors())
        values = compare_answers(
            self.compared,
            gather(student, match(costs, weight)),
            taught,
            step.data_samples,
            self.min_score,
        )
        return self.named(values)

    def predictions(
        self, model: BaseDetector, outputs: Outputs, features: str, samples: SampleList
    ) -> tuple[Answers, Tensor]:
        """The teacher's best predictions of its paired layers, (L, N, K, ...), and their weights (N, K), best first.

        The classes are the student's.
        """
        answers = answer_own(model, outputs, features, samples)
        # The last of them is the teacher's last layer.
        paired = self.of_students_classes(
            Answers(*(values.index_select(0, self.pairs) for values in answers))
        )
        last = paired.cls_scores[-1]
        weight = foreground(last.flatten(0, 1), self.min_score).unflatten(0, last.shape[:2])
        weight, queries = weight.topk(min(self.num_queries, weight.shape[1]), dim=1)
        return gather(paired, queries.expand(len(self.pairs), -1, -1)), weight

    def links(self) -> list[Link]:
        """One, of the two decoders."""
        return [Link("decoder", "decoder", "matched queries")]


def _own_queries(student: BaseDetector, answers: Answers) -> Answers:
    """The answers to a student's own queries: denoising queries come before them."""
    if not isinstance(student, DINO):
        return answers
    return Answers(*(values[:, :, -student.num_queries :] for values in answers))


def _check_kind(role: str, detector: BaseDetector) -> None:
    """Refuse a detector that makes or decodes queries in another way than the kinds that are known."""
    functions = [
        tuple(getattr(kind, name, None) for name in ("pre_decoder", "forward_decoder"))
        for kind in (type(detector), *KINDS)
    ]
    if functions[0] not in functions[1:]:
        *others, last = (kind.__name__ for kind in KINDS)
        raise UnsupportedError(
            f"{OWNER}: the {role} is a {type(detector).__name__}, whose predictions are not those of queries, layer by "
            f"layer; it works with {', '.join(others)} and {last}; between others use DetectionDistillation."
        )
