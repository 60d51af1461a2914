"""What a long run holds: memory, open files and threads, noted while it trains."""

import json
import os
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ResourcesHook(Hook):
    """Writes (iteration, resident bytes, open files, threads) every ``interval`` iterations."""

    priority = "LOWEST"

    def __init__(self, interval=20):
        self.interval = interval
        self.page = os.sysconf("SC_PAGE_SIZE")

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if self.every_n_train_iters(runner, self.interval):
            row = (
                runner.iter + 1,
                int(Path("/proc/self/statm").read_text().split()[1]) * self.page,
                len(os.listdir("/proc/self/fd")),
                len(os.listdir("/proc/self/task")),
            )
            with open(Path(runner.work_dir) / "resources.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
