"""Options of a setting that nothing reads."""

from lad.base.config import OTHER_KEYS, merge_options
from lad.errors import ConfigError

import pytest
from mmengine.config import Config


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("trian_cfg.max_epochs", "train_cfg"),
        ("default_hook.checkpoint.interval", "default_hooks"),
        ("val_evalutor.metric", "val_evaluator"),
        ("nosuch.key", None),
        ("nosuch", None),
    ],
)
def test_top_level_keys_that_nothing_reads_are_refused_with_the_nearest(key, near):
    cfg = Config(dict(train_cfg=dict(max_epochs=2)))
    with pytest.raises(
        ConfigError, match=f"--cfg-options: there is no setting '{key.split('.')[0]}'"
    ) as caught:
        merge_options(cfg, {key: 1}, "--cfg-options")
    assert near is None or f"nearest: {near}" in str(caught.value)
    assert cfg.to_dict() == dict(train_cfg=dict(max_epochs=2))


@pytest.mark.parametrize(
    "key",
    [
        "train_cfg.val_interval",
        "own_variable",
        "randomness.seed",
        "load_from",
        "tta_model",
        *sorted(OTHER_KEYS),
    ],
)
def test_keys_of_the_config_and_those_that_a_run_reads_are_set(key):
    cfg = Config(dict(train_cfg=dict(max_epochs=2), own_variable=1))
    merge_options(cfg, {key: "new"}, "--cfg-options")
    value = cfg
    for part in key.split("."):
        value = value[part]
    assert value == "new"
