"""Feature fusion and self-distillation: several networks teach a leader by their fused features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise, permutations

from lad.base.capture import levels_of
from lad.base.modes import evaluating
from lad.base.progress import Progress
from lad.base.schedules import Schedule, build_schedule
from lad.errors import ConfigError, UnsupportedError, listed, nearest
from lad.exchange.labels import reading_labels
from lad.heads.dense import class_logits
from lad.losses import attention_transfer_loss, complementary_features, direction_distance, diversity_loss
from lad.methods.base import JointMethod, Step
from lad.methods.response.dense import check_dense_heads, check_labels_known, labels_of
from lad.methods.response.logits import build_logit_loss
from lad.methods.settings import checked_loss_name
from lad.methods.together.comparisons import check_same_classes, compare_dense, pair_label
from lad.methods.together.fused_predictor import FusedPrediction, FusedPredictor
from lad.networks.dry_run import dry_run
from lad.networks.fusion import DeepAndShallow, DeepToShallow, LevelwiseSeparableConv, find_deep_and_shallow

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.model import ModuleDict
from torch import Tensor

#: (N,) distances of the maps of N images, of a student and a teacher.
Distance = Callable[[Tensor, Tensor], Tensor]
#: Names of the predictor on the fused maps and of the mean of the students' logits in the log.
FUSION, STUDENTS = "fusion", "students"
#: The authors' weights, which rise over five epochs.
DIVERSITY_WEIGHT = Schedule(1e-5, type="exponential", epochs=5)
FUSION_WEIGHT = Schedule(10.0, type="exponential", epochs=5)
UPSAMPLING_WEIGHT = Schedule(1000.0, type="exponential", epochs=5)


@MODELS.register_module()
class FeatureFusionSelfDistillation(JointMethod):
    """FFSD: students learn from each other, their fused features predict, and a leader learns from the fusion.

    Li et al., "Distilling a Powerful Student Model via Online Knowledge Distillation", TNNLS 2022, arXiv 2103.14473,
    with what the authors' code (github.com/SJLeo/FFSD) has beside the paper. All networks are trained at once; the
    leader is the one to deploy. With KL of the classes as ``loss`` has it, A(F) the attention map of length 1 of a
    feature map (:func:`lad.losses.attention_transfer.attention_map`), d the squared distance over the number of
    positions, and all that teaches constant:

    * a student s:  own + mean over the other students o of KL(o || s); each but the first also
      + diversity_weight (diversity(F_s, F_o) + self(s)), o being the student before it
      (:func:`lad.losses.diversity_loss`);
    * the fusion of the students' features:  own + KL(mean of the students' logits || fusion);
    * the leader l:  own + KL(fusion || l) + fusion_weight (d(A(F_l), A(F_fused)) + d(A(reverse(F_l)), A(all F_s))
      + self(l)), where ``reverse`` leads from the leader's features to those of all students side by side.

    self(x) lets shallow stages attend to what deep features attend to:  sum over stages of d(A(stage), A(U(deep))).
    U, transposed convolutions, is trained beside it to make a network's stages from its own deep map, by
    upsampling_weight times the distance of directions and of attention maps. For a student ``deep`` is the map of the
    student before it, turned around (:func:`lad.losses.complementary_features`), for the leader the fused map. As in
    the authors' code, a student's self(s) has the weight of its diversity.

    On a detector: features F are the maps of the neck, on which the head stands, means over levels; the deep map is
    the neck's of the size of the backbone's last; stages are the backbone's maps before its last that are no larger
    than the neck's first. The fusion has a copy of the leader's head. KL is taken at every prior that counts in the
    learner's own loss, over what its head divides its class loss by. Dense heads only.

    Terms are called ``loss_ffsd.LEARNER.TEACHER`` (``a.b``, ``fusion.students``, ``leader.fusion``) and
    ``loss_ffsd.LEARNER.diversity``, ``.attention``, ``.reverse``, ``.self``, ``.upsampling``; the fusion's own losses
    begin with ``fusion.``.

    Args:
        leader: Name of the leader; all others of ``among`` are students, of which it needs two.
        loss: Config of a loss of (n, C) logits, by default ``KDLoss`` at a temperature of 2.
        diversity_weight: Number or schedule; by default the authors' 1e-5, which rises over 5 epochs as
            e^(-5 (1 - epoch / 5)^2).
        fusion_weight: Likewise, 10.
        upsampling_weight: Likewise, 1000.
        norm_cfg: Norm of fusion, reverse and transposed convolutions.
        loss_name: What the names of the terms begin with.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError: a setting is wrong.
        UnsupportedError: the networks do not fit.
    """

    student_modules = ("backbone", "neck", "bbox_head")
    loss_name: str

    def __init__(
        self,
        leader: str,
        loss: dict | None = None,
        diversity_weight: float | dict | Schedule = DIVERSITY_WEIGHT,
        fusion_weight: float | dict | Schedule = FUSION_WEIGHT,
        upsampling_weight: float | dict | Schedule = UPSAMPLING_WEIGHT,
        norm_cfg: dict | None = None,
        loss_name: str = "loss_ffsd",
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.owner = type(self).__name__
        for name, value in (("loss", loss), ("norm_cfg", norm_cfg)):
            if value is not None and not isinstance(value, dict):
                raise ConfigError(f"{self.owner}: {name} must be a dict with a type, got {value!r}.")
        self.leader = leader
        self.loss_config = loss or dict(type="KDLoss", temperature=2.0)
        self.norm_cfg = norm_cfg or dict(type="BN")
        self.loss_name = checked_loss_name(self.owner, loss_name, begins=True)
        self.diversity_weight = build_schedule(diversity_weight, f"{self.owner}: diversity_weight", minimum=0)
        self.fusion_weight = build_schedule(fusion_weight, f"{self.owner}: fusion_weight", minimum=0)
        self.upsampling_weight = build_schedule(
            upsampling_weight, f"{self.owner}: upsampling_weight", minimum=0
        )

    # -- Building -------------------------------------------------------------------------------------------------

    def bind_together(self, networks: Mapping[str, BaseDetector]) -> None:
        """Refuse networks that do not fit; build fusion and transposed convolutions from their shapes."""
        self._check_names(networks)
        self.students = [name for name in networks if name != self.leader]
        leader = networks[self.leader]
        for name, network in networks.items():
            label = pair_label(self.owner, name, self.leader)
            heads = [getattr(each, "bbox_head", None) for each in (network, leader)]
            check_dense_heads(label, heads, (network, leader))
            check_labels_known(label, heads[0])
            if not getattr(network, "with_neck", False):
                raise UnsupportedError(
                    f"{self.owner} fuses the maps of necks, and {name} ({type(network).__name__}) has none: give it a "
                    "neck such as FPN."
                )
        check_same_classes(self.owner, networks)
        self.loss = build_logit_loss(self.owner, self.loss_config, leader.bbox_head.use_sigmoid_cls)
        outputs = {name: dry_run(network, ["backbone", "neck"]) for name, network in networks.items()}
        necks = {name: levels_of(found.calls("neck")) for name, found in outputs.items()}
        widths = {name: [level.shape[1] for level in necks[name]] for name in networks}
        together = [sum(level) for level in zip(*(widths[name] for name in self.students), strict=True)]
        self.fusion = FusedPredictor(leader.bbox_head, together, widths[self.leader], self.norm_cfg)
        self.reverse = None
        if not self.fusion_weight.is_zero:
            self.reverse = LevelwiseSeparableConv(widths[self.leader], together, self.norm_cfg)
        self.maps: dict[str, DeepAndShallow] = {}
        self.upsampling = ModuleDict()
        for name in self._distils_itself():
            found = find_deep_and_shallow(levels_of(outputs[name].calls("backbone")), necks[name], name)
            self.maps[name] = found
            self.upsampling[name] = DeepToShallow(found.deep_channels, found.channels, self.norm_cfg)
        self._check_students_widths(widths)

    def _check_names(self, networks: Mapping[str, BaseDetector]) -> None:
        if not isinstance(self.leader, str) or self.leader not in networks:
            raise ConfigError(
                f"{self.owner}: leader={self.leader!r} is none of its networks"
                f"{nearest(str(self.leader), networks)}; they are {listed(networks, 5)}."
            )
        if taken := sorted({FUSION, STUDENTS} & set(networks)):
            raise ConfigError(
                f"{self.owner}: no network may be called {taken[0]!r}, a name of its losses: give it another one."
            )
        if len(networks) < 3:
            [student] = set(networks) - {self.leader}
            raise ConfigError(
                f"{self.owner} fuses the features of two students or more, and there is only {student!r} beside the "
                f"leader: add a network, networks=dict({self.leader}=..., {student}=..., b=...)."
            )

    def _distils_itself(self) -> list[str]:
        """Names of the networks whose deep features distil their shallow ones."""
        if self.upsampling_weight.is_zero:
            return []
        students = [] if self.diversity_weight.is_zero else self.students[1:]
        return students + ([] if self.fusion_weight.is_zero else [self.leader])

    def _check_students_widths(self, widths: Mapping[str, Sequence[int]]) -> None:
        """A student's transposed convolutions take the deep map of the one before it."""
        for other, student in pairwise(self.students):
            if student in self.maps:
                level = self.maps[student].level
                if widths[student][level] != widths[other][level]:
                    raise UnsupportedError(
                        f"{self.owner}: the necks of {other} and {student} have {widths[other][level]} and "
                        f"{widths[student][level]} channels, and {student} distils itself from {other}'s map: set "
                        "out_channels of the necks alike, or diversity_weight=0."
                    )

    # -- Training -------------------------------------------------------------------------------------------------

    @contextmanager
    def observe(self, step: Step) -> Iterator[None]:
        """Record the labels of a network's own loss."""
        with reading_labels(step.student.bbox_head) as reader:
            step.observations.setdefault(self, {})[step.learner] = reader
            yield

    def joint_losses(self, steps: Mapping[str, Step]) -> dict[str, Tensor]:
        """The terms of the students, of their fusion and of the leader."""
        progress = steps[self.leader].progress
        necks = {name: levels_of(step.outputs.calls("neck")) for name, step in steps.items()}
        students = {name: necks[name] for name in self.students}
        fused = self.fusion(students, steps[self.leader].data_samples)
        terms = self._logit_terms(steps, fused)
        terms |= self._attention_terms(necks, fused, progress)
        terms |= self._self_terms(steps, necks, fused, progress)
        named = {f"{self.loss_name}.{name}": value for name, value in terms.items()}
        return named | {f"{FUSION}.{name}": value for name, value in fused.losses.items()}

    def _logit_terms(self, steps: Mapping[str, Step], fused: FusedPrediction) -> dict[str, Tensor]:
        observed = steps[self.leader].observations[self]
        outputs = {name: step.outputs["bbox_head"] for name, step in steps.items()}
        logits = {name: class_logits(step.student.bbox_head, outputs[name]) for name, step in steps.items()}
        labels = {
            name: labels_of(step.student.bbox_head, outputs[name], observed[name])
            for name, step in steps.items()
        }
        labels[FUSION], logits[FUSION] = fused.labels, fused.logits
        logits[STUDENTS] = torch.stack([logits[name].detach() for name in self.students]).mean(dim=0)
        peers = 1 / (len(self.students) - 1)
        pairs = dict.fromkeys(permutations(self.students, 2), peers)
        pairs |= {(FUSION, STUDENTS): 1.0, (self.leader, FUSION): 1.0}
        return {
            f"{learner}.{teacher}": weight
            * compare_dense(
                pair_label(self.owner, learner, teacher),
                self.loss,
                logits[learner],
                logits[teacher],
                labels[learner],
            )
            for (learner, teacher), weight in pairs.items()
        }

    def _attention_terms(
        self, necks: Mapping[str, Sequence[Tensor]], fused: FusedPrediction, progress: Progress
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if not self.diversity_weight.is_zero:
            weight = self.diversity_weight.at(progress)
            for other, student in pairwise(self.students):
                terms[f"{student}.diversity"] = weight * _mean(diversity_loss, necks[student], necks[other])
        if self.reverse is not None:
            weight, own = self.fusion_weight.at(progress), necks[self.leader]
            terms[f"{self.leader}.attention"] = weight * _mean(attention_transfer_loss, own, fused.maps)
            terms[f"{self.leader}.reverse"] = weight * _mean(
                attention_transfer_loss, self.reverse(own), fused.inputs
            )
        return terms

    def _self_terms(
        self,
        steps: Mapping[str, Step],
        necks: Mapping[str, Sequence[Tensor]],
        fused: FusedPrediction,
        progress: Progress,
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        previous = dict(zip(self.students[1:], self.students, strict=False))
        for name, found in self.maps.items():
            level, upsampling = found.level, self.upsampling[name]
            backbone = levels_of(steps[name].outputs.calls("backbone"))
            stages = [backbone[number] for number in found.stages]
            if name == self.leader:
                deep, weight = fused.maps[level].detach(), self.fusion_weight
            else:
                deep = complementary_features(necks[previous[name]][level])
                weight = self.diversity_weight
            sizes = [stage.shape[-2:] for stage in stages]
            with torch.no_grad(), evaluating(upsampling):
                targets = upsampling(deep, sizes)
            terms[f"{name}.self"] = weight.at(progress) * _sum(
                _each(attention_transfer_loss, stages, targets)
            )
            constant = [stage.detach() for stage in stages]
            made = upsampling(necks[name][level].detach(), sizes)
            distances = _each(direction_distance, made, constant) + _each(
                attention_transfer_loss, made, constant
            )
            terms[f"{name}.upsampling"] = self.upsampling_weight.at(progress) * _sum(distances)
        return terms

    def loss_weights(self) -> dict[str, float]:
        """The weights of the terms at the end of their schedules."""
        own = getattr(self.loss, "loss_weight", 1.0)
        peers = own / (len(self.students) - 1)
        weights = {f"{learner}.{teacher}": peers for learner, teacher in permutations(self.students, 2)}
        weights |= {f"{FUSION}.{STUDENTS}": own, f"{self.leader}.{FUSION}": own}
        if not self.diversity_weight.is_zero:
            weights |= {f"{name}.diversity": self.diversity_weight.end for name in self.students[1:]}
        if self.reverse is not None:
            weights |= {f"{self.leader}.{term}": self.fusion_weight.end for term in ("attention", "reverse")}
        for name in self.maps:
            weight = self.fusion_weight if name == self.leader else self.diversity_weight
            weights |= {f"{name}.self": weight.end, f"{name}.upsampling": self.upsampling_weight.end}
        return {f"{self.loss_name}.{name}": weight for name, weight in weights.items()}


def _each(distance: Distance, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Tensor]:
    """The mean over the images of a distance, of each level; levels differ in size, so each is computed by itself."""
    return [distance(own, taught).mean() for own, taught in zip(student, teacher, strict=True)]


def _mean(distance: Distance, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The mean over levels and images of a distance."""
    return torch.stack(_each(distance, student, teacher)).mean()


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
