"""Student, teacher and training as a config describes them."""

from lad.base.progress import LATE_EPOCH, last_epoch
from lad.errors import ConfigError
from lad.online.building import Networks, build_student, build_trainer
from lad.online.settings import OnlineSettings

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub
from online_streams import Scripted, found, write_configs


@pytest.fixture
def networks(tmp_path):
    """Of a student and a teacher of three classes; arguments change the student's config and the teacher."""

    def build(classes=None, teacher=(), **changed):
        cfg = Config.fromfile(str(write_configs(tmp_path)))
        cfg.update(changed)
        own = dict(cfg.online["teacher"], **dict(teacher))
        return Networks(cfg, cfg.load_from, own, classes, "cpu")

    return build


@pytest.mark.parametrize(
    ("train_cfg", "epoch"),
    [
        (dict(type="EpochBasedTrainLoop", max_epochs=12), 11),
        (dict(by_epoch=True, max_epochs=1), 0),
        (dict(type="IterBasedTrainLoop", max_iters=90000, val_interval=1000), LATE_EPOCH),
        (dict(by_epoch=False, max_iters=90000), LATE_EPOCH),
        (None, LATE_EPOCH),
    ],
)
def test_heads_are_at_the_end_of_their_training(networks, train_cfg, epoch):
    assert last_epoch(train_cfg) == epoch
    trainer = build_trainer(networks(train_cfg=train_cfg), OnlineSettings())
    trainer.teacher = Scripted(found([4, 4, 30, 30]))
    assert trainer.learn(0, np.zeros((48, 64, 3), np.uint8), found()).updates > 0
    assert MessageHub.get_current_instance().get_info("epoch") == epoch


def test_names_of_a_network_are_as_many_as_its_classes(networks):
    """Fewer would do until a class without a name is found, in the middle of the stream."""
    few = networks(classes=("a", "b"))
    with pytest.raises(
        ConfigError, match=r"bbox_head of the student has 3 classes and 2 names .* in --classes"
    ):
        build_student(few)
    few = networks(classes=("a", "b", "c"), teacher=dict(classes=["a", "b", "c", "d"]))
    with pytest.raises(
        ConfigError,
        match=r"bbox_head of the teacher has 3 classes and 4 names .* in online\.teacher\.classes",
    ):
        build_trainer(few, OnlineSettings())
