"""`lad search`: what is refused before anything is written, and the training of the best values."""

import json
import sys

from lad.base import processes
from lad.commands import search as command
from lad.search import Search, SearchSettings, parse_parameter, trials
from lad.search.space import check_key

import pytest
from helpers import ROOT
from mmengine.config import Config

optuna = pytest.importorskip("optuna")

# WORK_DIR CONFIG: a training with one evaluation, whose value is a hundredth of the weight.
TRAIN = """
import json, pathlib, sys
folder, settings = pathlib.Path(sys.argv[1]), {}
exec(pathlib.Path(sys.argv[2]).read_text(), settings)
logs = folder / '2026' / 'vis_data'
logs.mkdir(parents=True, exist_ok=True)
value = settings['model']['weight'] / 100
lines = [dict(iter=1, epoch=1, loss=1.0, step=1), {'coco/bbox_mAP': value, 'step': 1}]
(logs / 'scalars.json').write_text(chr(10).join(map(json.dumps, lines)) + chr(10))
"""


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("optim_wrapper.optimizr.lr", "the config has no optim_wrapper.optimizr; nearest: optimizer."),
        ("model.nothere.0.weight", "the config has no model.nothere."),
        ("param_scheduler.0.gama.x", "the config has no param_scheduler.0.gama"),
    ],
)
def test_a_misspelt_key_is_refused_before_anything_is_written(key, says, tmp_path, monkeypatch, capsys):
    config = ROOT / "configs/lad/paa_r18-c16_fpn_digits.py"
    work_dir = tmp_path / "search"
    monkeypatch.setattr(
        sys, "argv", ["lad search", str(config), "--space", f"{key}=0.1..1.0", "--work-dir", str(work_dir)]
    )
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"--space {key}: {says}" in line
    assert not work_dir.exists()


def test_settings_with_defaults_and_of_configs_that_are_named_by_their_paths_are_searched():
    cfg = Config(dict(model=dict(student="student.py", methods=[dict(type="A")]), train_cfg=dict()))
    for key in (
        "model.methods.0.loss_weight",
        "model.student.bbox_head.loss_cls.gamma",
        "train_cfg.max_epochs",
    ):
        check_key(cfg, key)


def test_another_best_trial_is_trained_anew(tmp_path, monkeypatch, capsys):
    content = dict(
        images=[dict(id=i, file_name=f"{i}.png", width=8, height=8) for i in range(10)],
        categories=[dict(id=1, name="thing")],
        annotations=[dict(id=i, image_id=i, category_id=1, bbox=[0, 0, 4, 4]) for i in range(10)],
    )
    (tmp_path / "train.json").write_text(json.dumps(content))
    dataset = dict(
        type="CocoDataset", ann_file=str(tmp_path / "train.json"), metainfo=dict(classes=("thing",))
    )
    monkeypatch.setattr(
        trials, "train_command", lambda file, folder: [sys.executable, "-c", TRAIN, str(folder), str(file)]
    )
    monkeypatch.setattr(processes, "POLL", 0.02)
    (tmp_path / "config.py").touch()
    cfg = Config(
        dict(
            model=dict(weight=30.0),
            train_cfg=dict(max_epochs=1),
            train_dataloader=dict(dataset=dataset),
            val_dataloader=dict(dataset=dataset),
            val_evaluator=dict(type="CocoMetric", ann_file="val.json"),
        ),
        filename=str(tmp_path / "config.py"),
    )
    space = (parse_parameter("model.weight=0.0..50.0"),)

    def search(number):
        one = Search(cfg, SearchSettings(space, trials=number), tmp_path / "search", lambda line: None)
        assert one.run()
        command.final(one)
        return capsys.readouterr().out

    assert search(1).endswith("coco/bbox_mAP 0.3000\n")
    assert search(1).endswith("coco/bbox_mAP 0.3000\n")
    one = Search(cfg, SearchSettings(space), tmp_path / "search", lambda line: None)
    one.study.add_trial(
        optuna.trial.create_trial(
            params={"model.weight": 45.0},
            distributions={"model.weight": optuna.distributions.FloatDistribution(0.0, 50.0)},
            value=0.45,
        )
    )
    assert search(2).endswith("coco/bbox_mAP 0.4500\n")
    assert sorted(folder.name for folder in (tmp_path / "search/final").iterdir()) == ["000", "001"]
