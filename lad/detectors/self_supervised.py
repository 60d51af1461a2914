"""Pretraining of backbones and necks on images without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lad.base.modes import evaluating
from lad.base.progress import Progress
from lad.base.random_state import RandomState
from lad.datasets.views import REFERENCE, VIEWS
from lad.detectors.networks import NetworksDetector
from lad.detectors.state import PROJECTIONS
from lad.errors import ConfigError, UnsupportedError, nearest
from lad.methods.without_labels.base import Embeddings, SnapshotEmbeddings, ViewsStep, WithoutLabelsMethod
from lad.methods.without_labels.gathering import gather_embeddings, gather_views
from lad.networks.backbone_and_neck import backbone_and_neck_config, pooled_features
from lad.networks.channels import zero_images
from lad.networks.embedding import EmbeddingNetwork
from lad.networks.preprocessing import Renormalisation
from lad.networks.projection import ProjectionHead
from lad.networks.roles import STUDENT, check_name, trained_configs
from lad.networks.snapshot import Snapshot

import torch
from mmdet.models import MultiBranchDataPreprocessor
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.dist import get_world_size
from mmengine.model import ModuleDict
from torch import Tensor, nn

#: Name of the projections under ``distillation.``.
PROJECTION = "projection"
#: End of the name of a network's snapshot.
AT_START = "_at_start"


@MODELS.register_module()
class SelfSupervisedPretraining(NetworksDetector):
    """Backbone and neck of one or several detectors, trained on two views of each image without labels.

    Each image of a batch comes as two views (:class:`lad.datasets.ViewsDataset`). Both run through backbone and neck in
    one batch; the mean of each feature map of each level goes through a projection head, and the methods compare the
    embeddings. The checkpoint holds ``backbone.*`` and ``neck.*`` as a plain detector's does, without heads, and the
    projection under ``distillation.projection.``.

    A method may compare the views with those of other images, or with what the networks and their projections embedded
    when the run began: then a batch has a third view, and snapshots are saved under ``distillation.snapshots.``.

    Several networks see the same views, each as its own config normalises them. The checkpoint is the deployed one's;
    the others are under ``distillation.networks.``, and :class:`lad.engine.hooks.SaveNetworksHook` writes each apart.

    Args:
        student: The only detector: a config path, or a dict with ``config`` and overrides, or a model dict. Its heads
            are not built.
        methods: Configs of methods, such as ``dict(type='ContrastiveLearning')``.
        projection: Settings of :class:`lad.networks.projection.ProjectionHead`, of each network's.
        data_preprocessor: Replaces the deployed detector's.
        networks: Several detectors by name, instead of ``student``.
        deploy: The name of the deployed one of them; by default the first.
        init_cfg: As in MMEngine.

    Raises:
        ConfigError, UnsupportedError: what cannot work is refused here, before training.
    """

    #: It learns nothing from labels.
    student_loss = False

    def __init__(
        self,
        student: str | dict | None = None,
        methods: Sequence[dict] = (),
        projection: dict | None = None,
        data_preprocessor: dict | None = None,
        networks: dict[str, str | dict] | None = None,
        deploy: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        _check_methods(methods)
        trained = trained_configs(student, networks, deploy, type(self).__name__, backbone_and_neck_config)
        super().__init__(trained, data_preprocessor, init_cfg=init_cfg)
        preprocessor = MultiBranchDataPreprocessor(trained.configs[trained.deploy].data_preprocessor)
        preprocessor.data_preprocessor = self.student.data_preprocessor
        self.data_preprocessor = preprocessor
        # The networks' own initial weights must not depend on projections and methods.
        with torch.random.fork_rng(devices=[]):
            self.distillation = ModuleDict()
            built = {name: self._build_projection(name, projection) for name in self.trained_networks}
            self.distillation[PROJECTION] = ModuleDict({name: own for name, (own, _) in built.items()})
            widths = {name: width for name, (_, width) in built.items()}
            for config in methods:
                self._add_method(dict(config), widths)
        if any(method.needs_snapshots for method in self.methods.values()):
            for name, network in self.trained_networks.items():
                copied = EmbeddingNetwork(network, self.distillation[PROJECTION][name])
                between = Renormalisation(self.student.data_preprocessor, network.data_preprocessor)
                self.teachers[name + AT_START] = Snapshot(name, copied, between, "start")

    def _build_projection(self, name: str, settings: dict | None) -> tuple[Any, int]:
        """A network's projection, and the width of its embeddings."""
        network = self.trained_networks[name]
        with evaluating(network), torch.no_grad():
            pooled = pooled_features(network, zero_images(network, num=2))
        projection = MODELS.build(
            dict(dict(type=ProjectionHead, in_channels=pooled.shape[1]), **(settings or {}))
        )
        with evaluating(projection), torch.no_grad():
            return projection, projection(pooled).shape[1]

    def _add_method(self, config: dict, widths: Mapping[str, int]) -> None:
        name = config.pop("name", config["type"])
        check_name(name, "methods: a method")
        if name in self.distillation:
            raise ConfigError(f"methods: {name!r} is taken; give one of them another name=.")
        method = MODELS.build(config)
        method.bind(widths)
        self.distillation[name] = method

    @property
    def methods(self) -> dict[str, WithoutLabelsMethod]:
        """The methods by name, in the order of the config."""
        return {name: module for name, module in self.distillation.items() if name != PROJECTION}

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that a batch has of each image."""
        wanted = any(method.needs_references for method in self.methods.values())
        return (*VIEWS, REFERENCE) if wanted else VIEWS

    def copied_by(self, snapshot: Snapshot) -> nn.Module:
        """A network and its projection."""
        return EmbeddingNetwork(
            self.trained_networks[snapshot.source], self.distillation[PROJECTION][snapshot.source]
        )

    def loss(
        self, batch_inputs: Mapping[str, Tensor], batch_data_samples: Mapping[str, SampleList]
    ) -> dict[str, Tensor]:
        """The methods' losses.

        Args:
            batch_inputs: Each of :attr:`views` of the N images by its name, (N, C, H, W), normalised for the detector.
            batch_data_samples: Metadata of the N images by the view's name; needed where networks normalise images
                differently.

        Raises:
            UnsupportedError: a batch has a single image, or other views.
        """
        progress = Progress.of_run()
        self.take_snapshots(progress)
        networks = self.embed_views(batch_inputs, batch_data_samples)
        step = ViewsStep(networks, progress, self._embed_by_snapshots(batch_inputs, batch_data_samples))
        losses: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            terms = method.losses(step)
            taken = set(terms) & set(losses)
            losses.update({f"{name}.{key}" if key in taken else key: value for key, value in terms.items()})
        return losses

    def embed_views(
        self, batch_inputs: Mapping[str, Tensor], batch_data_samples: Mapping[str, SampleList]
    ) -> dict[str, Embeddings]:
        """Embeddings of the views by network; see :meth:`loss`."""
        self._check_views(batch_inputs)
        # All views in one batch, so that batch norm sees all.
        inputs, samples = _joined(self.views, batch_inputs, batch_data_samples)
        if len(inputs) * get_world_size() == len(self.views):
            raise UnsupportedError(
                "a batch of one image has no other to be told from: set train_dataloader.batch_size to 2 or more, and "
                "drop_last=True where the last batch has a single image."
            )
        # A single network draws from the generators as it does alone; several must not draw each other's numbers.
        start = RandomState.capture(inputs.device) if len(self.trained_networks) > 1 else None
        found = {}
        for name, network in self.trained_networks.items():
            if start is not None:
                start.restore()
            pooled = pooled_features(network, self.network_inputs(name, inputs, samples))
            first, second, *others = self.distillation[PROJECTION][name](pooled).chunk(len(self.views))
            references = gather_embeddings(others[0]) if others else None
            found[name] = Embeddings(first, second, gather_views(first, second), references)
        return found

    @torch.no_grad()
    def _embed_by_snapshots(
        self, batch_inputs: Mapping[str, Tensor], batch_data_samples: Mapping[str, SampleList]
    ) -> dict[str, SnapshotEmbeddings]:
        """Embeddings by the networks and projections that the run began with, by network."""
        found = {}
        if self.teachers:
            # No method reads those of the first view.
            inputs, samples = _joined((VIEWS[1], REFERENCE), batch_inputs, batch_data_samples)
            for name in self.trained_networks:
                snapshot = self.teachers[name + AT_START].model
                second, references = snapshot(self.network_inputs(name, inputs, samples)).chunk(2)
                found[name] = SnapshotEmbeddings(second, gather_embeddings(references))
        return found

    def _check_views(self, batch_inputs: object) -> None:
        """Refuse a batch without the views that the methods need, and one with a view that none needs."""
        if isinstance(batch_inputs, Mapping) and set(batch_inputs) == set(self.views):
            return
        setting = "" if REFERENCE not in self.views else "references=True, "
        raise UnsupportedError(
            f"SelfSupervisedPretraining needs the views {', '.join(self.views)} of each image, and got "
            f"{', '.join(batch_inputs) if isinstance(batch_inputs, Mapping) else 'plain images'}: wrap the training "
            f"data, dataset=dict(type='ViewsDataset', {setting}dataset=dict(...))."
        )

    @torch.no_grad()
    def pooled(self, name: str, batch_inputs: Tensor, data_samples: SampleList) -> Tensor:
        """(N, channels) pooled features of a network, before the projection.

        Args:
            name: The network's name.
            batch_inputs: Images normalised for the deployed network.
            data_samples: Their metadata.
        """
        network = self.trained_networks[name]
        return pooled_features(network, self.network_inputs(name, batch_inputs, data_samples))

    def network_state(self, state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """One network's part of this detector's state dict, as that of its pretraining alone, with its projection."""
        start = f"{PROJECTIONS}{name}."
        projection = {
            f"{PROJECTIONS}{STUDENT}.{key.removeprefix(start)}": value
            for key, value in state.items()
            if key.startswith(start)
        }
        return super().network_state(state, name) | projection


def _joined(
    views: Sequence[str], inputs: Mapping[str, Tensor], samples: Mapping[str, SampleList]
) -> tuple[Tensor, SampleList]:
    """The named views of a batch in one."""
    return (
        torch.cat([inputs[name] for name in views]),
        [sample for name in views for sample in samples.get(name, ())],
    )


def _check_methods(methods: Any) -> None:
    if not isinstance(methods, (list, tuple)) or not methods or not all(isinstance(m, dict) for m in methods):
        raise ConfigError(
            f"methods must be a list of dicts, [dict(type='ContrastiveLearning')]; got {methods!r:.80}."
        )
    known = [
        name
        for name, kind in MODELS.module_dict.items()
        if isinstance(kind, type) and issubclass(kind, WithoutLabelsMethod)
    ]
    for method in methods:
        if method.get("type") not in known:
            kind = str(method.get("type"))
            raise ConfigError(
                f"methods: {kind} is no method of SelfSupervisedPretraining{nearest(kind, known)}; there are "
                f"{', '.join(known)}."
            )
