"""MMEngine's text logs are read. (Its scalars: test_curves.py.)"""

from lad.analysis.training_logs import Progress, last_error, read_progress, training_seconds


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
