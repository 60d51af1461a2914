"""Options of the command line reach every setting of a config."""

from lad.base.config import detector_config, merge_options
from lad.errors import ConfigError

import pytest
from mmengine.config import Config


def config(tmp_path, **model):
    (tmp_path / "small.py").write_text(
        "model = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=18))"
    )
    (tmp_path / "x.py").touch()
    return Config(dict(model=model), filename=str(tmp_path / "x.py"))


def test_an_option_reaches_into_a_detector_that_is_given_by_its_path(tmp_path):
    path = str(tmp_path / "small.py")
    cfg = config(tmp_path, student=path, teacher=dict(config=path), networks=dict(a=path, b=path))
    options = {
        "model.student.backbone.depth": 34,
        "model.student.backbone.style": "caffe",
        "model.teacher.backbone.depth": 50,
        "model.networks.b.backbone.depth": 101,
    }
    merge_options(cfg, options, "--cfg-options")
    assert cfg.model.networks.a == path
    detectors = [cfg.model.student, cfg.model.teacher, cfg.model.networks.a, cfg.model.networks.b]
    assert [detector_config(one, "x").backbone.depth for one in detectors] == [34, 50, 18, 101]
    assert detector_config(cfg.model.student, "x").backbone.style == "caffe"
    assert detector_config(cfg.model.student, "x").type == "RetinaNet"


def test_a_path_is_replaced_by_an_option_for_itself(tmp_path):
    cfg = config(tmp_path, student="small.py", teacher=dict(config="small.py"))
    merge_options(cfg, {"model.student": "big.py", "model.teacher.config": "big.py"}, "--cfg-options")
    assert (cfg.model.student, cfg.model.teacher.config) == ("big.py", "big.py")


def test_an_option_that_leads_into_a_value_is_refused(tmp_path):
    for options in ({"model.student.depth.x": 1}, {"model.teacher.config.x": 1}):
        cfg = config(tmp_path, student=dict(depth="eighteen"), teacher=dict(config="small.py"))
        with pytest.raises(ConfigError, match=r"--cfg-options do not fit .*x\.py"):
            merge_options(cfg, options, "--cfg-options")
