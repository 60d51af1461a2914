"""Configs and checkpoints of the exits that are kept."""

from __future__ import annotations

from pathlib import Path

from lad.engine.config_files import write_network_config
from lad.engine.hooks.save_networks import SaveNetworksHook
from lad.engine.model import detector_of
from lad.engine.plain_config import plain_config, standalone
from lad.errors import ConfigError

from mmengine.dist import is_main_process
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor


@HOOKS.register_module()
class SaveExitsHook(SaveNetworksHook):
    """Writes each exit as a plain MMDetection detector of a truncated backbone.

    Before the first step ``WORK_DIR/student_early.py`` is written, the config of exit ``early`` of the network
    ``student``, and beside every ``epoch_3.pth`` or ``best_*.pth`` a ``student_early_epoch_3.pth``, as
    :class:`SaveNetworksHook` does for networks. ``tools/train.py`` adds the hook where the model has
    ``keep_exits=True``.
    """

    def before_train(self, runner: Runner) -> None:
        """Refuse models whose exits are not kept; write the exits' configs."""
        self.model = detector_of(runner)
        if not getattr(self.model, "keep_exits", False):
            raise ConfigError(
                "SaveExitsHook writes the exits of a DistillationDetector with keep_exits=True: set it in model, or "
                "take the hook out of the config."
            )
        self.exits = {
            f"{network}_{name}": (network, name) for network, own in self.model.exits.items() for name in own
        }
        self.names = list(self.exits)
        if is_main_process():
            for file, (network, name) in self.exits.items():
                config = plain_config(runner.cfg, self.model.exits[network][name].plain_config)
                write_network_config(standalone(config), Path(runner.work_dir) / f"{file}.py")
        self._last: list[Path] = []
        self._find_split(runner)

    def state_of(self, name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`SaveNetworksHook.state_of`."""
        return self.model.exit_state(state, *self.exits[name])
