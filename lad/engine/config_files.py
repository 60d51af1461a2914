"""Config files that a run writes into its work_dir, and what a user has put there under the same names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

#: What a network's own config begins with.
MARK = "# Written by a training of lad: the plain config of a network that it leaves behind.\n"


def check_replaceable(config: Config, file: Path) -> None:
    """Refuse a file in the place of a network's config that no training has written.

    Args:
        config: The network's.
        file: Where it will be.

    Raises:
        ConfigError: another file is there.
    """
    there = file.read_text(errors="replace") if file.exists() else None
    # Before there was the mark, the text was the config's alone.
    if there is not None and not there.startswith(MARK) and there != config.pretty_text:
        raise ConfigError(
            f"a training writes its network's config to {file}, and another file is there: move it, or name another "
            "--work-dir."
        )


def write_network_config(config: Config, file: Path) -> None:
    """Write a network's plain config, as :func:`lad.engine.plain_config.standalone` makes it.

    Raises:
        ConfigError: another file is there; see :func:`check_replaceable`.
    """
    check_replaceable(config, file)
    write_whole(file, (MARK + config.pretty_text).encode())


def dump_replaces_source(cfg: Config) -> bool:
    """Whether MMEngine's dump of a config into the work_dir would replace a file that somebody wrote.

    That is the config itself, or one of the same name that has bases, which no dump has.
    """
    if cfg.filename is None:
        return False
    dump = Path(cfg.work_dir) / Path(cfg.filename).name
    if not dump.is_file():
        return False
    return dump.samefile(cfg.filename) or "_base_" in dump.read_text(errors="replace")


@contextmanager
def config_beside_log() -> Iterator[None]:
    """Let the runners that are built write their config into the folder of their log, ``WORK_DIR/TIMESTAMP``.

    MMEngine writes it into the work_dir itself, over what is there under the config's name.
    """

    def dump(runner: Runner) -> None:
        if is_main_process():
            name = Path(runner.cfg.filename or f"{runner.timestamp}.py").name
            runner.cfg.dump(str(Path(runner.log_dir) / name))

    with patch.object(Runner, "dump_config", dump):
        yield
