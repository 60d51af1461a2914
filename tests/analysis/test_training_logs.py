"""MMEngine's text logs are read, and lines of its scalars that are wrong. (Its scalars: test_curves.py.)"""

from lad.analysis.training_logs import Progress, last_error, read_progress, read_scalars, training_seconds
from lad.errors import DataError

import pytest
from scalar_logs import step, write


def test_progress_is_the_last_step_of_the_log(tmp_path):
    log = tmp_path / "train.log"
    assert read_progress(log) is None
    line = (
        "2026/01/01 00:00:00 - mmengine - INFO - Epoch(train) [{}][{}/26]  lr: 1.0e-04  eta: {}  time: 1.3\n"
    )
    log.write_text(line.format(1, 20, "1 day, 0:10:00") + line.format(" 2", 6, "0:02:10"))
    assert read_progress(log) == Progress("epoch 2 [6/26]", 130)
    log.write_text(line.format(1, 20, "1 day, 0:10:00"))
    assert read_progress(log).left == 87000
    # What an earlier start wrote is not where the present one is.
    assert read_progress(log, log.stat().st_size) is None
    log.write_text("... - Iter(train) [ 200/9000]  lr: 1e-4  eta: 1:00:01  time: 1\n")
    assert read_progress(log) == Progress("iteration 200/9000", 3601)


def test_the_last_error_line_of_a_log_is_found(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("ValueError: first\nerror: there is no config 'x'.\nbye\n")
    assert last_error(log) == "there is no config 'x'."
    assert last_error(log, len("ValueError: first\nerror: there is no config 'x'.\n")) == "bye"
    assert last_error(log, log.stat().st_size) == "no output"
    log.write_text("torch.cuda.OutOfMemoryError: too much\n")
    assert last_error(log) == "torch.cuda.OutOfMemoryError: too much"
    log.write_text("no error at all\nKilled\n")
    assert last_error(log) == "Killed"


def test_the_time_of_a_training_is_that_of_all_its_starts_without_validation(tmp_path):
    assert training_seconds(tmp_path) is None
    line = "2026/01/01 {} - mmengine - INFO - {}\n"
    logs = dict(
        first=[
            ("00:00:00", "hello"),
            ("00:01:30", "Epoch(train) [1][1/1]"),
            ("00:02:00", "Epoch(val) [1][1/1]"),
        ],
        second=[("01:00:00", "hello"), ("01:00:10", "Saving checkpoint at 2 epochs"), ("01:00:20", "bye")],
    )
    for name, lines in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.log").write_text(
            "".join(line.format(*each) for each in lines) + "no time\n"
        )
    assert training_seconds(tmp_path) == 90 + 10


@pytest.mark.parametrize("key", ["iter", "epoch", "step"])
@pytest.mark.parametrize("value", ["1", None, 1.5, -1, float("nan"), True, [1]])
def test_a_position_that_is_no_whole_number_is_told_with_its_line(tmp_path, key, value):
    work_dir = write(
        tmp_path, "20260101_000000", step(20, 1.0), '{"cut off": ', {**step(40, 1.0), key: value}
    )
    with pytest.raises(
        DataError, match=rf"scalars\.json, line 3: {key} must be a whole number, got"
    ) as refused:
        read_scalars(work_dir)
    assert "\n" not in str(refused.value)


def test_whole_numbers_that_are_written_as_floats_are_read(tmp_path):
    run = read_scalars(write(tmp_path, "20260101_000000", dict(loss=1.0, iter=20.0, epoch=1.0, step=20)))
    assert run.curves["loss"].iterations.tolist() == [20]
    assert run.iterations_per_epoch == 20
