"""Which method to start with for two detectors: the table of docs/getting_started.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lad.base.config import kind_of
from lad.errors import ConfigError, nearest

#: Ends of the class names of heads, by family; the first that fits.
_HEADS = {
    "PAA": ("PAAHead", "COPHead", "IoPHead"),
    "TOOD": ("TOODHead",),
    "RTMDet": ("RTMDetHead", "RTMDetSepBNHead"),
    "YOLOX": ("YOLOXHead",),
    "GFL": ("GFLHead", "LDHead"),
    "RetinaNet": ("RetinaHead", "RetinaSepBNHead"),
    "FCOS": ("FCOSHead",),
    "ATSS": ("ATSSHead",),
    "DDOD": ("DDODHead",),
}


@dataclass(frozen=True)
class Recipe:
    """Methods for a student and its teacher.

    Attributes:
        name: Short name.
        methods: Configs.
        why: One sentence.
        settings: Further settings of the training config.
    """

    name: str
    methods: tuple[Mapping[str, Any], ...]
    why: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_MEASURED = "docs/results.md"
LAD = Recipe(
    "lad",
    (dict(type="LabelAssignmentDistillation"),),
    "these heads choose positives by their predictions, and a teacher's choice helped a small RTMDet most "
    f"({_MEASURED})",
)
RECIPES = {
    "lad": LAD,
    "lad-soft": Recipe(
        "lad-soft",
        (dict(type="LabelAssignmentDistillation", mode="soft"),),
        f"for TOOD the teacher's alignments have to come with its matches ({_MEASURED})",
    ),
    "solad": Recipe(
        "solad",
        (dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")),
        "LAD with the teacher's soft labels beside it (SoLAD)",
    ),
    "crosskd": Recipe(
        "crosskd",
        (dict(type="CrossHeadDistillation"),),
        f"CrossKD gained most of all methods on a small RetinaNet ({_MEASURED})",
    ),
    "ld": Recipe(
        "ld",
        (dict(type="LocalisationDistillation"),),
        "GFL predicts distributions of edges, which LD compares",
    ),
    "frcnn": Recipe(
        "frcnn",
        (dict(type="HintDistillation"), dict(type="RPNDistillation"), dict(type="RCNNDistillation")),
        f"all parts of Chen et al. together are best for two-stage detectors ({_MEASURED})",
    ),
    "pkd": Recipe(
        "pkd",
        (dict(type="FeatureDistillation", loss=dict(type="PKDLoss", loss_weight=10.0)),),
        "PKD compares the necks' features by their correlation, which any two detectors with the same strides allow",
    ),
    "fgd": Recipe(
        "fgd",
        (dict(type="FeatureDistillation", loss=dict(type="FGDLoss")),),
        "FGD compares the necks' features, of objects and background apart",
        # The authors' configs: its gradients are large at first.
        dict(optim_wrapper=dict(clip_grad=dict(max_norm=35, norm_type=2))),
    ),
}
_FOR_FAMILY = {
    "PAA": "lad",
    "RTMDet": "lad",
    "YOLOX": "lad",
    "DDOD": "lad",
    "TOOD": "lad-soft",
    "RetinaNet": "crosskd",
    "FCOS": "crosskd",
    "ATSS": "crosskd",
    "GFL": "ld",
    "two-stage": "frcnn",
}


def family(model: Mapping[str, Any]) -> str:
    """Family of a detector by its config: the first words of the table, ``'two-stage'``, or the class of its head."""
    if "roi_head" in model:
        return "two-stage"
    head = kind_of(model.get("bbox_head")) or kind_of(model) or "unknown"
    return next((name for name, kinds in _HEADS.items() if head.endswith(kinds)), head)


def recipes_for(
    student: Mapping[str, Any], teacher: Mapping[str, Any], method: str | None = None
) -> Sequence[Recipe]:
    """Recipes to try, the first that can be built being the one.

    Args:
        student, teacher: Model configs.
        method: Name of a recipe, which is then the only one.

    Raises:
        ConfigError: there is no such recipe.
    """
    if method is not None:
        if method not in RECIPES:
            raise ConfigError(
                f"--method: there is no {method!r}{nearest(method, RECIPES)}; there are {', '.join(RECIPES)}."
            )
        return [RECIPES[method]]
    own, other = family(student), family(teacher)
    first = _FOR_FAMILY.get(own) if own == other else None
    return [RECIPES[first], RECIPES["pkd"]] if first else [RECIPES["pkd"]]
