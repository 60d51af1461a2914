"""Base of detectors that carry several networks and are, to everything outside, the deployed one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from lad.base.config import kind_of
from lad.base.progress import Progress
from lad.base.settings import checked_flag
from lad.datasets.teacher_detections import DetectionsOfBatch
from lad.detectors.ensemble import ENSEMBLE, merge_settings, predict_together
from lad.detectors.state import EXITS, NETWORKS, SNAPSHOTS, inside_name, network_state, outside_name
from lad.errors import ConfigError
from lad.networks.building import build_teacher
from lad.networks.channels import repeats_of_grey
from lad.networks.exits import Exit
from lad.networks.foreign.detection_file import DetectionFile, FileTeacher, build_detection_file
from lad.networks.frozen import FrozenTeacher
from lad.networks.plain_exit import plain_exit_config, plain_exit_state
from lad.networks.preprocessing import Renormalisation, check_same_batches
from lad.networks.roles import TrainedConfigs, check_name
from lad.networks.snapshot import Snapshot, check_snapshot, is_snapshot

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from mmengine.model import ModuleDict
from torch import Tensor, nn

#: Inside and outside, the beginning of the deployed network's names.
_DEPLOYED = "student"


class NetworksDetector(BaseDetector):
    """Detector of one or several trained networks, frozen teachers, snapshots and exits; base of the orchestrators.

    To everything outside it is the deployed network: its ``state_dict`` holds that network's keys without prefix and
    everything else under ``distillation.`` (see :mod:`lad.detectors.state`), its attributes (``backbone``,
    ``bbox_head``, ...) and its predictions are the deployed network's. Teachers are hidden: no parameter list,
    optimizer, checkpoint, EMA copy or DDP bucket holds them.

    Args:
        trained: The configs of the trained networks.
        data_preprocessor: Replaces the deployed network's. Networks that are normalised otherwise get what their own
            config specifies.
        exits: Configs of exits by the trained network's name, then the exit's.
        predict_with: ``'ensemble'``: predictions are those of all trained networks, merged by non-maximum suppression.
            By default those of the deployed one.
        init_cfg: As in MMEngine.
        keep_exits: Whether exits are written as detectors of their own too; see :attr:`Exit.plain_config`.

    Attributes:
        student: The deployed network.
        peers: The other trained networks by name.
        exits: Exits by their network's name, then their own.
        teachers: Frozen teachers and snapshots by name.

    Raises:
        ConfigError, UnsupportedError: what cannot work is refused here, before training.
    """

    def __init__(
        self,
        trained: TrainedConfigs,
        data_preprocessor: dict | None = None,
        exits: dict[str, dict] | None = None,
        predict_with: str | None = None,
        init_cfg: dict | None = None,
        keep_exits: bool = False,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if predict_with not in (None, ENSEMBLE):
            raise ConfigError(
                f"predict_with={predict_with!r}: it is 'ensemble', or left out; `deploy` names the network that "
                "predicts."
            )
        if data_preprocessor is not None:
            trained.configs[trained.deploy].data_preprocessor = data_preprocessor
        self.deploy = trained.deploy
        self.predict_with = predict_with
        self._order = tuple(trained.configs)
        self.student = MODELS.build(trained.configs[trained.deploy])
        self.peers = ModuleDict({name: MODELS.build(config) for name, config in trained.others.items()})
        self.data_preprocessor = self.student.data_preprocessor
        self.renormalisations = nn.ModuleDict(
            {name: self._renormalisation_for(name, network) for name, network in self.peers.items()}
        )
        for name, network in self.peers.items():
            check_same_batches(name, network.data_preprocessor, self.data_preprocessor)
        if predict_with is not None:
            merge_settings(self.trained_networks[self._order[0]])
        self.exits = ModuleDict()
        # Like adapters, exits draw their initial weights without changing those of the networks.
        with torch.random.fork_rng(devices=[]):
            self._build_exits({} if exits is None else exits, trained)
            if keep_exits:
                self._prepare_kept_exits(trained)
        self.keep_exits = checked_flag(type(self).__name__, "keep_exits", keep_exits)
        self.teachers: dict[str, FrozenTeacher] = {}
        self._register_state_dict_hook(_rename_outside)

    def _renormalisation_for(self, name: str, network: BaseDetector) -> Renormalisation:
        """From the deployed network's images to those of a trained one."""
        repeat = repeats_of_grey(f"network {name}", network, images_of=self.student)
        return Renormalisation(self.data_preprocessor, network.data_preprocessor, exact=True, repeat=repeat)

    def _build_exits(self, exits: dict[str, dict], trained: TrainedConfigs) -> None:
        if not isinstance(exits, dict) or not all(isinstance(own, dict) for own in exits.values()):
            raise ConfigError(
                f"exits must be like dict({self.deploy}=dict(early=dict(levels=[1]))), got {exits!r}."
            )
        for network, own in exits.items():
            if network not in self.trained_networks:
                raise ConfigError(
                    f"exits: there is no trained network {network!r}; there are {', '.join(self._order)}."
                )
            for name in own:
                check_name(name, f"exits.{network}: an exit")
            self.exits[network] = ModuleDict(
                {
                    name: Exit(
                        self.trained_networks[network], trained.configs[network], spec, f"{network}.{name}"
                    )
                    for name, spec in own.items()
                }
            )

    def _prepare_kept_exits(self, trained: TrainedConfigs) -> None:
        """Find the plain config of every exit, so that what cannot be kept is refused before training."""
        if not self.exits:
            raise ConfigError(
                "keep_exits=True: there is no exit to keep; add "
                f"exits=dict({self.deploy}=dict(early=dict(levels=[1])))."
            )
        for network, own in self.exits.items():
            for name, exit_ in own.items():
                exit_.plain_config = plain_exit_config(
                    exit_, self.trained_networks[network], trained.configs[network], f"{network}.{name}"
                )

    def _build_teachers(self, configs: dict[str, Any]) -> None:
        """Build the frozen teachers and snapshots of a config, by name."""
        for name, spec in configs.items():
            if name in self.trained_networks:
                raise ConfigError(
                    f"teachers: {name!r} is a trained network already; call the teacher something else."
                )
            if kind_of(spec) == DetectionFile.__name__:
                self.teachers[name] = build_detection_file(
                    spec, self.student, name, self._detections_of_batch()
                )
                continue
            if not is_snapshot(spec):
                self.teachers[name] = build_teacher(spec, self.student, name)
                continue
            check_snapshot(name, spec, self.trained_networks)
            source = spec["snapshot_of"]
            network = self.trained_networks[source]
            between = self._renormalisation_for(source, network)
            self.teachers[name] = Snapshot(source, network, between, spec.get("at", "start"))

    def _detections_of_batch(self) -> DetectionsOfBatch:
        """What takes the detections of files from a batch; one for all files."""
        for teacher in self.teachers.values():
            if isinstance(teacher, FileTeacher):
                return teacher.of_batch
        of_batch = DetectionsOfBatch()
        of_batch.register(self.data_preprocessor)
        return of_batch

    # -- Networks -------------------------------------------------------------------------------------------------

    @property
    def trained_networks(self) -> dict[str, BaseDetector]:
        """The trained networks by name, in the order of the config."""
        return {name: self.student if name == self.deploy else self.peers[name] for name in self._order}

    @property
    def learners(self) -> dict[str, BaseDetector]:
        """Everything that a method can train: the trained networks, then their exits as ``'NETWORK.EXIT'``."""
        exits = {
            f"{network}.{name}": own for network, each in self.exits.items() for name, own in each.items()
        }
        return {**self.trained_networks, **exits}

    @property
    def teacher(self) -> FrozenTeacher:
        """The only frozen teacher.

        Raises:
            ConfigError: there is none, or there are several.
        """
        if len(self.teachers) != 1:
            raise ConfigError(
                f"there are {len(self.teachers)} frozen teachers ({', '.join(self.teachers)}): name one."
            )
        return next(iter(self.teachers.values()))

    def network_inputs(self, name: str, inputs: Tensor, data_samples: OptSampleList) -> Tensor:
        """Images as a trained network's own config normalises them.

        Args:
            name: The network's name.
            inputs: Images normalised for the deployed network, (N, C, H, W).
            data_samples: Their metadata.
        """
        return inputs if name == self.deploy else self.renormalisations[name](inputs, data_samples)

    def network_state(self, state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """One trained network's part of this detector's state dict, as a plain detector's."""
        return network_state(state, name, self.deploy)

    def exit_state(self, state: dict[str, Tensor], network: str, name: str) -> dict[str, Tensor]:
        """One kept exit's part of this detector's state dict, as that of a plain detector of its own."""
        prefix = f"{EXITS}{network}.{name}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        return plain_exit_state(own, self.network_state(state, network), self.exits[network][name].plain_keys)

    def take_snapshots(self, progress: Progress) -> None:
        """Take the snapshots that are due at a step."""
        for teacher in self.teachers.values():
            if isinstance(teacher, Snapshot):
                teacher.update(self.copied_by(teacher), progress)

    def take_missing_snapshots(self) -> None:
        """Take the snapshots that neither a step nor a checkpoint has made; for tools that do not train."""
        for teacher in self.teachers.values():
            if isinstance(teacher, Snapshot) and teacher.taken_in_epoch is None:
                teacher.update(self.copied_by(teacher), Progress())

    def copied_by(self, snapshot: Snapshot) -> nn.Module:
        """What a snapshot is a copy of."""
        return self.trained_networks[snapshot.source]

    # -- Prediction -----------------------------------------------------------------------------------------------

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, **kwargs: Any) -> SampleList:
        """Predictions of the deployed network, or of all trained ones merged (``predict_with='ensemble'``)."""
        if self.predict_with is None:
            return self.student.predict(batch_inputs, batch_data_samples, **kwargs)
        inputs = {name: self.network_inputs(name, batch_inputs, batch_data_samples) for name in self._order}
        return predict_together(self.trained_networks, inputs, batch_data_samples, **kwargs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> Any:
        return self.student._forward(batch_inputs, batch_data_samples)

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        """Features of the deployed network."""
        return self.student.extract_feat(batch_inputs)

    # -- To everything outside, the deployed network --------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            deployed = self.__dict__.get("_modules", {}).get(_DEPLOYED)
            if deployed is None:
                raise
            return getattr(deployed, name)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by their names outside: the deployed network's plain, the others under ``distillation.``.

        Optimizer constructors decide by name (layer-wise decay looks for ``backbone.`` at the start).
        """
        start = f"{prefix}." if prefix else ""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            yield start + outside_name(name[len(start) :]), parameter

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> NetworksDetector:
        super()._apply(fn, *args, **kwargs)
        for teacher in self.teachers.values():
            teacher.move(fn)
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any) -> None:
        keeps_prefix = not hasattr(self.student, _DEPLOYED)
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key[len(prefix) :]
            if name.startswith(SNAPSHOTS):
                continue
            name = self._current_name(name)
            if (inside := prefix + inside_name(name, keeps_prefix)) != key:
                state_dict[inside] = state_dict.pop(key)
        self._load_snapshots(state_dict, prefix)
        metadata = getattr(state_dict, "_metadata", None)
        if metadata is not None and not any(key.startswith(f"{prefix}{_DEPLOYED}.") for key in metadata):
            # Versions of modules, looked up by the names that the modules have in here.
            for key in [key for key in metadata if key.startswith(prefix)]:
                name = inside_name(key[len(prefix) :] + ".", keeps_prefix).rstrip(".")
                metadata[prefix + name] = metadata[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _current_name(self, name: str) -> str:
        """A name outside, also of checkpoints of version 0.1, which had all of several networks under ``networks.``."""
        kind, _, rest = name.partition(".")
        network = rest.partition(".")[0]
        if kind != "networks" or not self.peers or network not in self._order:
            return name
        return rest.removeprefix(f"{network}.") if network == self.deploy else NETWORKS + rest

    def _load_snapshots(self, state_dict: dict, prefix: str) -> None:
        for name, teacher in self.teachers.items():
            start = f"{prefix}{SNAPSHOTS}{name}."
            found = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(start)}
            if found and isinstance(teacher, Snapshot):
                teacher.load_state_dict({key.removeprefix(start): value for key, value in found.items()})


def _rename_outside(
    module: NetworksDetector, state_dict: OrderedDict, prefix: str, local_metadata: dict
) -> None:
    """State-dict hook: names inside become names outside, in place and in the same order; snapshots are added."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        value = state_dict.pop(key)
        state_dict[prefix + outside_name(key[len(prefix) :])] = value
    for name, teacher in module.teachers.items():
        if isinstance(teacher, Snapshot):
            for key, value in teacher.state_dict().items():
                state_dict[f"{prefix}{SNAPSHOTS}{name}.{key}"] = value
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        for key in [key for key in metadata if key.startswith(prefix) and key != prefix.rstrip(".")]:
            renamed = (prefix + outside_name(key[len(prefix) :] + ".")).rstrip(".")
            if renamed != key:
                metadata[renamed] = metadata.pop(key)
