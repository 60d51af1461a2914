"""PAA head with implicit objectness prediction."""

from __future__ import annotations

from typing import Any

from lad.heads.objectness_head import ObjectnessPAAHead

from mmdet.registry import MODELS
from torch import Tensor, nn

# As in PAA, with a bias probability close to 0.
_NORMAL = dict(type="Normal", std=0.01)
_INIT = dict(
    _NORMAL,
    layer="Conv2d",
    override=[
        dict(_NORMAL, name="atss_cls", bias_prob=0.01),
        dict(_NORMAL, name="obj_bias", bias_prob=1e-4),
    ],
)


@MODELS.register_module()
class PAAIOPHead(ObjectnessPAAHead):
    """PAA head with implicit objectness prediction (IOP; "IO" in the authors' code).

    A location predicts from its regression feature how much to subtract from all its class probabilities and an
    objectness to multiply the rest with:

        p(c | x) = max(sigmoid(cls_c(x)) - sigmoid(bias(x)), 0) * sigmoid(objectness(x)).

    Nguyen et al., WACV 2022, arXiv 2108.10520, appendix; the formula and the initial bias probability of 1e-4
    follow the authors' code, whose layer names are kept. Where the bias exceeds the class probability the score is
    exactly 0 and has no gradient.

    Args:
        init_cfg: By default PAA's, with probability 1e-4 for the bias.
        args, kwargs: As for :class:`ObjectnessPAAHead`.
    """

    def __init__(self, *args: Any, init_cfg: dict | list[dict] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, init_cfg=init_cfg or _INIT, **kwargs)

    def _init_objectness(self) -> None:
        self.objectness = nn.Conv2d(self.feat_channels, 1, 3, padding=1)
        self.obj_bias = nn.Conv2d(self.feat_channels, 1, 3, padding=1)

    def class_scores(self, cls_logits: Tensor, reg_feat: Tensor) -> Tensor:  # noqa: D102
        objectness = self.objectness(reg_feat).float().sigmoid()
        bias = self.obj_bias(reg_feat).float().sigmoid()
        return (cls_logits.float().sigmoid() - bias).relu() * objectness
