"""Detectors that learn together and teach each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lad.base.config import detector_config
from lad.errors import ConfigError, listed, nearest
from lad.exchange.co_learning import find_co_learning
from lad.exchange.switching import RoleSwitch
from lad.networks.preprocessing import Renormalisation

from mmcv.ops import batched_nms
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import OptSampleList, SampleList
from mmengine.model import ModuleDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

ENSEMBLE = "ensemble"


@MODELS.register_module()
class CoLearningDetector(BaseDetector):
    """Networks trained at once, of which now one and now another decides the labels of all.

    Co-learning LAD of Nguyen et al., WACV 2022, arXiv 2108.10520, Sec. 3.3. Each step every network scores the same
    candidates; the switch chooses, group by group, whose losses go into the assignment, and every network learns its
    own losses on the labels that come out. Gradients of a network come from its own losses only. Nobody needs to be
    pretrained.

    Logged beside each network's losses (``a.loss_cls``): the averages of its candidates' losses (``a.mean``), of their
    spread (``a.std``) and of the criterion (``a.criterion``), and the share of objects it taught (``a.share``).

    Args:
        networks: Detectors by name, each a config path, a dict with ``config`` and overrides, or a model dict.
        switch: Config of a :class:`lad.exchange.switching.Switch`.
        predict_with: The name of the network that predicts, or ``'ensemble'`` for all; by default the first.
        data_preprocessor: Replaces the first network's. Networks that are normalised otherwise are fed what their
            own config says.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError, UnsupportedError: what cannot work is refused here, before training.
    """

    def __init__(
        self,
        networks: dict[str, str | dict],
        switch: dict,
        predict_with: str | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not isinstance(networks, dict) or len(networks) < 2:
            raise ConfigError("CoLearningDetector needs two networks: networks=dict(a=CONFIG, b=CONFIG).")
        for name in networks:
            if not name.isidentifier() or hasattr(ModuleDict, name) or "loss" in name or name == ENSEMBLE:
                raise ConfigError(
                    f"CoLearningDetector: a network cannot be called {name!r}: use a plain word like 'a' or 'r50', "
                    f"without 'loss', and not '{ENSEMBLE}' or what PyTorch calls its own."
                )
        if predict_with is not None and predict_with not in (*networks, ENSEMBLE):
            raise ConfigError(
                f"CoLearningDetector: predict_with={predict_with!r} is no network"
                f"{nearest(predict_with, networks)}; the names are {listed(networks)}, or '{ENSEMBLE}'."
            )
        configs = {name: detector_config(spec, f"network {name}") for name, spec in networks.items()}
        self.networks = ModuleDict({name: MODELS.build(config) for name, config in configs.items()})
        first = next(iter(self.networks.values()))
        self.data_preprocessor = (
            first.data_preprocessor if data_preprocessor is None else MODELS.build(data_preprocessor)
        )
        self.renormalisations = nn.ModuleDict(
            {
                name: Renormalisation(self.data_preprocessor, network.data_preprocessor)
                for name, network in self.networks.items()
            }
        )
        self.switch = TASK_UTILS.build(switch)
        self.co_learning = find_co_learning(dict(self.networks.items()), self.switch)
        self.predict_with = predict_with or next(iter(networks))

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Every network's own losses on the labels of whoever teaches, and who did.

        Args:
            batch_inputs: Normalised images, (N, 3, H, W).
            batch_data_samples: Ground truth and metadata of the N images.
        """
        heads = [network.bbox_head for network in self.networks.values()]
        outputs = [
            network.bbox_head(network.extract_feat(self._inputs(name, batch_inputs, batch_data_samples)))
            for name, network in self.networks.items()
        ]
        losses, roles = self.co_learning.losses(heads, outputs, batch_data_samples, self.switch)
        named = {
            f"{name}.{key}": value
            for name, own in zip(self.networks, losses, strict=True)
            for key, value in own.items()
        }
        return named if roles is None else named | self._log(roles)

    def _log(self, roles: RoleSwitch) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": getattr(roles, key)[number]
            for number, name in enumerate(self.networks)
            for key in ("mean", "std", "criterion", "share")
        }

    def _inputs(self, name: str, inputs: Tensor, data_samples: OptSampleList) -> Tensor:
        return self.renormalisations[name](inputs, data_samples)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Detections of the network that ``predict_with`` names, or of all, merged by non-maximum suppression."""
        names = list(self.networks) if self.predict_with == ENSEMBLE else [self.predict_with]
        results = []
        for name in names:
            inputs = self._inputs(name, batch_inputs, batch_data_samples)
            samples = self.networks[name].predict(inputs, batch_data_samples, rescale=rescale)
            results.append([sample.pred_instances for sample in samples])
        if len(names) == 1:
            return batch_data_samples
        test_cfg = self.networks[names[0]].test_cfg
        for sample, *instances in zip(batch_data_samples, *results, strict=True):
            # YOLOX sets no limit.
            sample.pred_instances = merge(instances, test_cfg["nms"], test_cfg.get("max_per_img", -1))
        return batch_data_samples

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> dict[str, Any]:
        return {
            name: network._forward(self._inputs(name, batch_inputs, batch_data_samples), batch_data_samples)
            for name, network in self.networks.items()
        }

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """Features of the network that predicts, the first of an ensemble."""
        name = next(iter(self.networks)) if self.predict_with == ENSEMBLE else self.predict_with
        return self.networks[name].extract_feat(batch_inputs)


def network_state(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """One network's part of a :class:`CoLearningDetector`'s state dict, under the keys of a plain detector."""
    prefix = f"networks.{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def merge(instances: list[InstanceData], nms: dict, max_per_img: int) -> InstanceData:
    """Detections of several networks on one image, without what overlaps a better one of its class.

    Args:
        instances: Each network's, with ``bboxes``, ``scores`` and ``labels``.
        nms: Settings of the non-maximum suppression.
        max_per_img: How many are kept; -1 for all.
    """
    together = InstanceData.cat(instances)
    if len(together) == 0:
        return together
    scored, keep = batched_nms(together.bboxes, together.scores, together.labels, nms)
    count = len(keep) if max_per_img < 0 else max_per_img
    together = together[keep[:count]]
    together.scores = scored[:count, -1]
    return together
