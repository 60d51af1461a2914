"""What ``lad test`` leaves in the folder of a training."""

from lad.commands import test as command

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from resumable_runs import config
from stacks import LAYOUT


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """Of a test in the folder of a training."""
    monkeypatch.setattr(LAYOUT, lambda text, **_: (text, True))
    monkeypatch.setattr(command, "check_test_data", lambda runner: None)
    monkeypatch.setattr(Runner, "test", lambda runner: None)
    file = tmp_path / "mine.py"
    config().dump(file)
    cfg = Config.fromfile(file)
    cfg.work_dir = str(tmp_path / "work")
    cfg.experiment_name = "test"
    return cfg


def test_config_of_the_training_is_left_as_it_is(cfg, tmp_path):
    """A distillation is tested as its student alone: a training that goes on with that config would not distil."""
    own = tmp_path / "work/mine.py"
    own.parent.mkdir()
    own.write_text("# of the training")
    before = Runner.dump_config
    command.test(cfg, None)
    assert own.read_text() == "# of the training"
    [dumped] = (tmp_path / "work").glob("*/mine.py")
    assert "TwoLayers" in dumped.read_text()
    assert Runner.dump_config is before
