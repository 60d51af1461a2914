"""Methods that pretrain, as small as they can be; trainings in other processes import them."""

from __future__ import annotations

from lad.base.phases import Pretraining
from lad.methods import DistillationMethod

from mmdet.registry import MODELS
from torch import nn


@MODELS.register_module(force=True)
class BoundaryProbe(DistillationMethod):
    """As Activation Boundaries: the student's backbone and a connector learn first; the connector then rests."""

    teacher_modules = ("backbone",)
    student_modules = ("backbone",)

    def __init__(self, pretrain=None, student=("backbone",)):
        super().__init__()
        self.pretraining = Pretraining.from_config(pretrain, "BoundaryProbe", student, ("connector",))
        self.connector = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))

    def pretraining_losses(self, step):
        own = self.connector(step.outputs["backbone"][0])
        return dict(loss_boundary=(own - step.teacher.target("backbone")[0][0]).square().mean())


@MODELS.register_module(force=True)
class FactorProbe(DistillationMethod):
    """As Factor Transfer: an autoencoder of the teacher's features learns first, then a translator with the task."""

    teacher_modules = ("backbone",)
    student_modules = ("backbone",)
    compares_classes = False

    def __init__(self, pretrain=None):
        super().__init__()
        self.pretraining = Pretraining.from_config(pretrain, "FactorProbe", (), ("paraphraser",))
        self.paraphraser = nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1))
        self.translator = nn.Conv2d(8, 8, 1)

    def pretraining_losses(self, step):
        features = step.teacher.target("backbone")[0][0]
        return dict(loss_paraphrase=(self.paraphraser(features) - features).square().mean())

    def losses(self, step):
        factor = self.paraphraser[:2](step.teacher.target("backbone")[0][0])
        return dict(loss_factor=(self.translator(step.outputs["backbone"][0]) - factor).abs().mean())
