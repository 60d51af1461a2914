"""A search finds the best value, stops bad trainings, goes on after a kill, and never reads the validation data."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lad.base import processes
from lad.errors import ConfigError, DataError
from lad.search import Search, SearchSettings, parse_parameter, trials
from lad.search.data import split_training_data

import pytest
from helpers import ROOT
from mmengine.config import Config

pytest.importorskip("optuna")

# WORK_DIR CONFIG: a training of four evaluations, in which `weight` is best at 2; it goes on where it was.
TRAIN = """
import json, pathlib, sys, time
folder, settings = pathlib.Path(sys.argv[1]), {}
exec(pathlib.Path(sys.argv[2]).read_text(), settings)
weight, step = settings['model']['weight'], settings.get('step', 0)
logs = folder / f'2026_{len(list(folder.glob("2026_*"))):02d}' / 'vis_data'
logs.mkdir(parents=True)
with open(folder / 'starts.txt', 'a') as file:
    file.write('x')
done = folder / 'steps.txt'
for step in range(int(done.read_text()) if done.exists() else 0, 4):
    if weight > 90:
        print('ValueError: an obstacle')
        sys.exit(1)
    value = (1 - abs(weight - 2) / 10) * (step + 1) / 4
    with open(logs / 'scalars.json', 'a') as file:
        print(json.dumps(dict(iter=step + 1, epoch=step + 1, loss=1.0, step=step + 1)), file=file)
        print(json.dumps({'coco/bbox_mAP': value, 'step': step + 1}), file=file)
    done.write_text(str(step + 1))
    time.sleep(settings['pause'])
"""


def coco(images):
    return dict(
        images=[dict(id=i, file_name=f"{i}.png", width=8, height=8) for i in range(images)],
        categories=[dict(id=1, name="thing")],
        annotations=[dict(id=i, image_id=i, category_id=1, bbox=[0, 0, 4, 4]) for i in range(images)],
    )


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Ten training images; validation annotations that nothing may read."""
    (tmp_path / "train.json").write_text(json.dumps(coco(10)))
    dataset = dict(type="CocoDataset", data_root=str(tmp_path), metainfo=dict(classes=("thing",)))
    monkeypatch.setattr(
        trials, "train_command", lambda file, folder: [sys.executable, "-c", TRAIN, str(folder), str(file)]
    )
    monkeypatch.setattr(processes, "POLL", 0.02)
    file = tmp_path / "config.py"
    file.touch()
    return Config(
        dict(
            model=dict(weight=3.0),
            pause=0.0,
            train_cfg=dict(max_epochs=4),
            train_dataloader=dict(
                dataset=dict(dataset, ann_file="train.json", data_prefix=dict(img="train/"))
            ),
            val_dataloader=dict(dataset=dict(dataset, ann_file="val.json", data_prefix=dict(img="val/"))),
            val_evaluator=dict(type="CocoMetric", ann_file=str(tmp_path / "val.json")),
        ),
        filename=str(file),
    )


def search(config, tmp_path, space="model.weight=0.0..10.0", **settings):
    said = []
    parameters = tuple(map(parse_parameter, [space]))
    return Search(config, SearchSettings(parameters, **settings), tmp_path / "search", said.append), said


def test_the_best_value_is_found_and_written_for_all_training_images(config, tmp_path):
    config.pause = 0.15  # time to be stopped in
    one, said = search(config, tmp_path, trials=12)
    assert one.run()
    best = Config.fromfile(tmp_path / "search/best.py")
    assert best.model.weight == one.best.params["model.weight"] == pytest.approx(2.0, abs=1.0)
    assert best.train_dataloader == config.train_dataloader
    assert best.val_evaluator == config.val_evaluator
    states = [trial.state.name for trial in one.study.trials]
    assert len(states) == 12
    assert "PRUNED" in states
    # The config's own value is the first trial.
    assert one.study.trials[0].params == {"model.weight": 3.0}
    assert one.study.trials[0].value == pytest.approx(0.9)
    table = (tmp_path / "search/search.md").read_text().splitlines()
    assert table[0] == "| trial | model.weight | coco/bbox_mAP | evaluations |"
    assert len(table) == 14
    assert table[2].startswith(f"| {one.best.number} | ")
    assert any("(stopped)" in line for line in table)
    assert any("below the median" in line for line in said)


@pytest.mark.parametrize(
    ("train_cfg", "first"),
    [
        (dict(max_epochs=12), 4),
        (dict(max_epochs=10), 3),
        (dict(max_epochs=12, val_interval=3), 2),
        (dict(type="IterBasedTrainLoop", max_iters=1000, val_interval=100), 3),
        (dict(max_epochs=1), 1),
    ],
)
def test_no_training_is_stopped_before_30_percent_of_its_schedule(train_cfg, first, config, tmp_path):
    """Whatever lies between its evaluations; the first of a worst one after that."""
    import optuna

    config.train_cfg = train_cfg
    study = search(config, tmp_path)[0].study
    distributions = {"x": optuna.distributions.FloatDistribution(0, 1)}
    for _ in range(5):
        values = dict.fromkeys(range(1, 13), 1.0)
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": 0.5}, distributions=distributions, value=1.0, intermediate_values=values
            )
        )
    trial = study.ask(distributions)
    stopped = []
    for number in range(1, 13):
        trial.report(0.0, number)
        stopped += [number] if trial.should_prune() else []
    assert stopped[0] == first


def test_more_trials_go_on_with_the_same_search(config, tmp_path):
    search(config, tmp_path, trials=2)[0].run()
    one, _ = search(config, tmp_path, trials=3)
    assert one.run()
    assert len(one.study.trials) == 3
    again, said = search(config, tmp_path, trials=3)
    assert again.run()
    assert not said


def test_a_search_that_goes_on_tries_other_values_and_those_of_one_that_was_never_stopped(config, tmp_path):
    straight, _ = search(config, tmp_path / "straight", trials=4)
    straight.run()
    for trials_wanted in (1, 2, 3, 4):
        parts, _ = search(config, tmp_path / "parts", trials=trials_wanted)
        parts.run()
    values = [trial.params["model.weight"] for trial in straight.study.trials]
    assert len(set(values)) == 4
    assert [trial.params["model.weight"] for trial in parts.study.trials] == values


def test_a_trial_that_was_killed_before_it_had_values_gets_those_of_its_number(config, tmp_path):
    straight, _ = search(config, tmp_path / "straight", trials=2)
    straight.run()
    killed, _ = search(config, tmp_path / "killed", trials=1)
    killed.run()
    killed.study.ask()
    again, _ = search(config, tmp_path / "killed", trials=2)
    assert again.run()
    assert again.study.trials[1].params == straight.study.trials[1].params


@pytest.mark.parametrize("name", ["best.py", "search.md", "data/fit.json", "trials/mine.txt"])
def test_files_in_a_folder_that_is_no_search_are_kept(name, config, tmp_path):
    file = tmp_path / "search" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(ConfigError, match="is there and of no search: move it, or give another --work-dir"):
        search(config, tmp_path)
    assert file.read_text() == "mine"
    assert not (tmp_path / "search/search.json").exists()


def test_a_best_config_that_was_changed_by_hand_is_kept(config, tmp_path):
    search(config, tmp_path, trials=1)[0].run()
    best = tmp_path / "search/best.py"
    own = best.read_text()
    for number in (1, 2):
        best.write_text(f"mine = {number}")
        one, said = search(config, tmp_path, trials=1)
        one.run()
        assert (tmp_path / f"search/best.edited{number}.py").read_text() == f"mine = {number}"
        assert best.read_text() == own
        assert any(f"kept as best.edited{number}.py" in line for line in said)


def test_a_search_whose_first_trial_failed_is_replaced_by_the_mended_one(config, tmp_path):
    config.model.weight = 95.0
    with pytest.raises(DataError):
        search(config, tmp_path, space="model.weight=90.5..99.0")[0].run()
    one, said = search(config, tmp_path, space="model.weight=0.0..10.0", trials=2)
    assert any("begins anew: every trial with another --space has failed" in line for line in said)
    assert one.run()
    assert [trial.number for trial in one.study.trials] == [0, 1]


def test_a_trial_that_was_stopped_is_not_lost_to_another_search(config, tmp_path):
    config.pause = 1.0
    search(config, tmp_path, trials=1, hours=1.5 / 3600)[0].run()
    with pytest.raises(ConfigError, match="has a search with another --space"):
        search(config, tmp_path, space="model.weight=0.0..5.0")
    assert (tmp_path / "search/trials/000/starts.txt").exists()


def test_a_lock_that_a_killed_process_left_is_passed_over(config, tmp_path, monkeypatch):
    from optuna.storages.journal import JournalFileSymlinkLock

    monkeypatch.chdir(tmp_path)
    search(config, Path(), trials=1)[0].run()
    JournalFileSymlinkLock(str(Path("search/study.journal").resolve()), grace_period=1).acquire()
    # A second of grace, in the place of half a minute.
    monkeypatch.setattr(JournalFileSymlinkLock.__init__, "__defaults__", (1,))
    assert search(config, Path(), trials=2)[0].run()


def test_a_lock_that_leads_nowhere_is_removed(config, tmp_path):
    search(config, tmp_path, trials=1)[0].run()
    (tmp_path / "search/study.journal.lock").symlink_to(tmp_path / "moved/study.journal")
    assert search(config, tmp_path, trials=2)[0].run()


def test_another_search_in_the_folder_is_refused(config, tmp_path):
    search(config, tmp_path, trials=1)[0].run()
    with pytest.raises(ConfigError, match="has a search with another --space: go on with the same"):
        search(config, tmp_path, space="model.weight=0.0..5.0")
    config.model.other = 1
    with pytest.raises(ConfigError, match="another config"):
        search(config, tmp_path)


def test_a_trial_goes_on_where_it_was_stopped(config, tmp_path):
    config.pause = 1.0
    one, _ = search(config, tmp_path, trials=1, hours=2.5 / 3600)
    assert not one.run()
    folder = tmp_path / "search/trials/000"
    steps = int((folder / "steps.txt").read_text())
    assert 0 < steps < 4
    one, _ = search(config, tmp_path, trials=1)
    assert one.run()
    assert (folder / "starts.txt").read_text() == "xx"
    assert len(one.study.trials) == 1
    assert one.best.value == pytest.approx(0.9)
    assert one.study.trials[0].intermediate_values == pytest.approx({k: 0.9 * k / 4 for k in (1, 2, 3, 4)})


def test_a_first_trial_that_fails_ends_the_search_with_its_error(config, tmp_path):
    config.model.weight = 95.0
    one, _ = search(config, tmp_path, space="model.weight=90.5..99.0", trials=5)
    with pytest.raises(
        DataError, match=r"trial 0: training ended with exit code 1: ValueError: an obstacle \(.*log\)"
    ):
        one.run()


def test_a_later_trial_that_fails_is_replaced(config, tmp_path):
    one, said = search(config, tmp_path, space="model.weight=1.0,2.0,3.0,4.0,5.0,95.0", trials=6, seed=4)
    assert one.run()
    states = [trial.state.name for trial in one.study.trials]
    failed = states.count("FAIL")
    assert failed > 0, "choose another seed"
    assert len(states) == 6 + failed
    assert (
        sum("failed: training ended with exit code 1: ValueError: an obstacle" in line for line in said)
        == failed
    )
    assert "95" not in (tmp_path / "search/search.md").read_text()


def test_a_metric_that_is_not_logged_is_named(config, tmp_path):
    one, _ = search(config, tmp_path, metric="coco/bbox_map")
    with pytest.raises(DataError, match=r"the evaluation gives no 'coco/bbox_map', but coco/bbox_mAP"):
        one.run()


def test_trials_never_see_the_validation_data(config, tmp_path):
    split = split_training_data(config, tmp_path / "data", 0.3, 0)
    assert "val.json" not in split.pretty_text
    train, val = split.train_dataloader.dataset, split.val_dataloader.dataset
    assert val.data_prefix.img == "train/"
    assert split.val_evaluator.ann_file == split.test_evaluator.ann_file == val.ann_file
    images = [
        {one["id"] for one in json.loads(Path(file.ann_file).read_text())["images"]} for file in (train, val)
    ]
    assert [len(part) for part in images] == [7, 3]
    assert images[0] | images[1] == set(range(10))
    # What the caller holds stays.
    assert config.train_dataloader.dataset.ann_file == "train.json"


def test_data_that_cannot_be_split_are_refused(config, tmp_path):
    one = config.train_dataloader.dataset
    config.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[one, one])
    with pytest.raises(ConfigError, match="train_dataloader has 2 data sets"):
        split_training_data(config, tmp_path, 0.3, 0)
    config.train_dataloader.dataset = dict(one, ann_file="gone.json")
    with pytest.raises(ConfigError, match=r"gone\.json cannot be split: FileNotFoundError"):
        split_training_data(config, tmp_path, 0.3, 0)
    config.val_evaluator = None
    with pytest.raises(ConfigError, match="needs val_evaluator"):
        split_training_data(config, tmp_path, 0.3, 0)


def test_a_value_that_is_not_finite_fails_its_trial(config, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "evaluations", lambda *_: {1: math.nan})
    one, _ = search(config, tmp_path, trials=1)
    with pytest.raises(DataError, match="trial 0: its coco/bbox_mAP is nan"):
        one.run()


@pytest.mark.slow
def test_a_killed_search_of_real_trainings_goes_on(tmp_path):
    """SIGKILL during the second trial: the next start resumes it, and the result is that of one that was not killed."""
    command = [
        sys.executable, str(ROOT / "tools/search.py"), "configs/lad/paa_r18-c16_fpn_digits.py",
        "--space", "optim_wrapper.optimizer.lr=log:1e-4..1e-2", "--trials", "2",
        "--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False", "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, str(ROOT / "tools/dataset_converters/make_digits.py"), "--out", "data/digits",
         "--images", "24", "--val-images", "4"], cwd=tmp_path, check=True,
    )  # fmt: skip
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    straight = subprocess.run(
        [*command, "--work-dir", "straight"], cwd=tmp_path, capture_output=True, text=True
    )
    assert straight.returncode == 0, straight.stderr
    killed = subprocess.Popen([*command, "--work-dir", "killed"], cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "killed/trials/001").is_dir() and killed.poll() is None:
        time.sleep(0.2)
    assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    again = subprocess.run([*command, "--work-dir", "killed"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "killed/search.md").read_text() == (tmp_path / "straight/search.md").read_text()


def test_a_mistake_in_a_key_leaves_the_folder_to_the_command_without_it(config, tmp_path):
    config.param_scheduler = [dict(gamma=0.1)]
    with pytest.raises(ConfigError, match=r"--space.*config\.py"):
        search(config, tmp_path, space="param_scheduler.9.gamma=0.1..1.0")
    assert not (tmp_path / "search/search.json").exists()
    assert search(config, tmp_path, trials=1)[0].run()


def test_a_half_written_line_of_the_journal_is_passed_over(config, tmp_path):
    assert search(config, tmp_path, trials=2)[0].run()
    with open(tmp_path / "search/study.journal", "a") as file:
        file.write('{"op_code": 8, "worker')
    for trials_wanted in (3, 4):
        one, _ = search(config, tmp_path, trials=trials_wanted)
        assert one.run()
        assert len(one.study.trials) == trials_wanted


@pytest.mark.parametrize("line", [b"[1]garbage\n", b"\xff\xfe\n"])
def test_a_broken_line_of_the_journal_is_named(line, config, tmp_path):
    search(config, tmp_path, trials=1)[0].run()
    journal = tmp_path / "search/study.journal"
    first, rest = journal.read_bytes().split(b"\n", 1)
    journal.write_bytes(first + b"\n" + line + rest)
    with pytest.raises(DataError, match=r"study\.journal, line 2, cannot be read .*: take the line out"):
        search(config, tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_broken_settings_of_a_search_are_named(content, config, tmp_path):
    search(config, tmp_path)
    (tmp_path / "search/search.json").write_text(content)
    with pytest.raises(DataError, match=r"search\.json cannot be read .*: remove it to go on"):
        search(config, tmp_path)


@pytest.mark.parametrize("space", ["a=[1,2],[3,4]", "a=None,True", "a={},3"])
def test_lists_and_none_are_no_choices(space):
    with pytest.raises(ConfigError, match="--space"):
        parse_parameter(space)


def test_a_bound_may_begin_with_its_point():
    assert (parse_parameter("a=.5..1.0").low, parse_parameter("a=log:.5..1.0").log) == (0.5, True)
