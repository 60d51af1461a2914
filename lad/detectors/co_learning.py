"""The former CoLearningDetector, which is a method now."""

from __future__ import annotations

from typing import Any

from lad.errors import ConfigError

from mmdet.registry import MODELS


@MODELS.register_module()
class CoLearningDetector:
    """Refuses a config of version 0.1 by the one that takes its place."""

    def __init__(self, **settings: Any) -> None:
        networks = settings.get("networks") or {}
        named = ", ".join(f"{name}=..." for name in networks) or "a=..., b=..."
        predict_with = settings.get("predict_with")
        together = predict_with == "ensemble"
        deploy = predict_with if predict_with in networks else next(iter(networks), "a")
        ensemble = ", predict_with='ensemble'" if together else ""
        raise ConfigError(
            "CoLearningDetector is a method of DistillationDetector now: model=dict(type='DistillationDetector', "
            f"networks=dict({named}), deploy={deploy!r}{ensemble}, methods=[dict(type='CoLearningAssignment', "
            f"switch={settings.get('switch')!r})])."
        )
