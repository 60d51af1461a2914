"""What a run writes into its work_dir never replaces what a user has put there."""

from pathlib import Path

from lad.engine.config_files import (
    MARK,
    config_beside_log,
    dump_replaces_source,
    write_network_config,
)
from lad.errors import ConfigError

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from resumable_runs import config


@pytest.mark.parametrize("there", ["model = dict(mine=True)\n", "", "# Written by me\n"])
def test_another_file_in_the_place_of_a_networks_config_is_kept(there, tmp_path):
    file = tmp_path / "student.py"
    file.write_text(there)
    with pytest.raises(
        ConfigError, match=r"student\.py, and another file is there: move it, or name another --work"
    ):
        write_network_config(Config(dict(a=1)), file)
    assert file.read_text() == there


def test_a_networks_config_is_written_again_and_read_as_a_config(tmp_path):
    file = tmp_path / "student.py"
    for value in (1, 2):
        write_network_config(Config(dict(a=value)), file)
        assert Config.fromfile(file).a == value
    assert file.read_text().startswith(MARK)


def test_a_networks_config_of_an_earlier_version_is_replaced(tmp_path):
    config = Config(dict(a=1))
    (tmp_path / "student.py").write_text(config.pretty_text)
    write_network_config(config, tmp_path / "student.py")
    assert (tmp_path / "student.py").read_text().startswith(MARK)


def read(file, work_dir):
    cfg = Config.fromfile(file)
    cfg.work_dir = str(work_dir)
    return cfg


def test_a_dump_replaces_the_config_itself_and_one_with_bases_and_no_earlier_dump(tmp_path, monkeypatch):
    (tmp_path / "base.py").write_text("a = 1\n")
    own = tmp_path / "own.py"
    own.write_text("_base_ = 'base.py'\n")
    monkeypatch.chdir(tmp_path)
    assert dump_replaces_source(read(own, "."))
    assert not dump_replaces_source(read(own, "work_dirs/own"))
    for text, replaces in (("_base_ = '../base.py'\n", True), ("a = 1\n", False)):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other/own.py").write_text(text)
        assert dump_replaces_source(read(own, "other")) is replaces
    assert not dump_replaces_source(Config(dict(work_dir=".")))


def test_a_runners_config_is_written_beside_its_log(tmp_path):
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    (work_dir / "own.py").write_text("mine")
    cfg = config(work_dir=str(work_dir))
    (tmp_path / "own.py").write_text("read = True")
    cfg = Config(cfg._cfg_dict.to_dict(), filename=str(tmp_path / "own.py"))
    with config_beside_log():
        runner = Runner.from_cfg(cfg)
    assert (work_dir / "own.py").read_text() == "mine"
    assert (Path(runner.log_dir) / "own.py").is_file()
