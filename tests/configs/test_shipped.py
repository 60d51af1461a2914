"""Configs under ``lad::`` paths, where MMEngine looks for those of an installed package."""

from lad.base.config import SHIPPED, load_config

import pytest
import yaml
from helpers import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config

LAD = "lad/lad_paa-r50_paa-r101_fpn_1x_coco.py"


def test_package_links_to_the_checkouts_configs_and_tools():
    for name in ("configs", "tools"):
        assert (SHIPPED / name).resolve() == ROOT / name


def test_index_lists_every_metafile_once():
    listed = yaml.safe_load((SHIPPED / "model-index.yml").read_text())["Import"]
    assert listed == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*/metafile.yml"))


@pytest.mark.parametrize("read", [load_config, get_config])
def test_path_in_the_package_is_the_file_of_the_checkout(read):
    assert read(f"lad::{LAD}").to_dict() == Config.fromfile(ROOT / "configs" / LAD).to_dict()


def test_config_without_a_metafile_is_found_too():
    assert load_config("lad::_base_/schedules/schedule_digits.py").train_cfg.max_epochs == 6


def test_derived_config_builds_in_the_scope_of_mmdetection(tmp_path):
    """In a scope named lad, MMEngine would look for registries of lad's, and warn that there are none."""
    path = tmp_path / "mine.py"
    path.write_text(
        '_base_ = "lad::lad/paa_r18-c16_fpn_digits.py"\nmodel = dict(bbox_head=dict(num_classes=3))\n'
        "first = {{_base_.train_dataloader.dataset}}\n"
    )
    cfg = load_config(str(path))
    assert cfg.model._scope_ == cfg.first._scope_ == "mmdet"
    assert MODELS.build(cfg.model).bbox_head.num_classes == 3


def test_paths_of_other_packages_keep_their_scope(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text('_base_ = "mmdet::paa/paa_r50_fpn_1x_coco.py"\n')
    assert load_config(str(path)).model._scope_ == "mmdet"


def test_unknown_config_names_the_nearest_of_the_package():
    with pytest.raises(ValueError, match=r"there is no config .* in lad; nearest: lad/"):
        load_config("lad::lad/lad_paa-r50_paa-r101_fpn_1x.py")
