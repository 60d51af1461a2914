"""A training on a real Slurm: preempted, requeued, and finished as if nothing had happened."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_runs import Trainer, differences, final_state, make_data, write_config
from helpers import ROOT

CLUSTER = ROOT / "tests/slurm/cluster.sh"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not (shutil.which("slurmctld") and shutil.which("munged")),
        reason="no Slurm here: tests/slurm/cluster.sh install (Debian, as root)",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="the test cluster's daemons need root"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A function that runs a Slurm command on the test cluster and returns its output."""
    folder = tmp_path_factory.mktemp("slurm")
    environment = dict(
        os.environ,
        SLURM_CONF=f"{folder}/slurm.conf",
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        PYTHONPATH=str(ROOT / "tests"),
        OMP_NUM_THREADS="1",
        PYTHONWARNINGS="ignore",
    )

    def run(*command, check=True):
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    try:
        run(CLUSTER, "start", folder)
        yield run
    finally:
        run(CLUSTER, "stop", folder, check=False)


def wait_for(condition, what, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


def test_preempted_job_goes_on_and_ends_with_the_result_of_an_undisturbed_run(slurm, tmp_path):
    make_data(tmp_path)
    config = write_config(
        tmp_path / "config.py", more="custom_hooks += [dict(type='WaitForSignalHook', attempts=2)]"
    )
    out = tmp_path / "job.out"
    job = slurm(
        *(
            "sbatch",
            "--parsable",
            "--ntasks-per-node=2",
            "--cpus-per-task=1",
            "--gres=none",
            f"--output={out}",
        ),
        *("--signal=USR1@30", ROOT / "tools/slurm_train.sbatch", config, tmp_path / "preempted"),
    )

    def text():
        return out.read_text() if out.exists() else ""

    def status():
        return slurm("scontrol", "show", "job", job)

    def start_again():
        """Spare the two minutes that Slurm lets pass before it starts a requeued job; all but two seconds of them."""
        wait_for(lambda: "JobState=PENDING" in status(), status)
        # slurmd takes a job that starts in the very second in which its last run ended for the one that was ended.
        time.sleep(2)
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now")

    # Another job needs the node: Slurm ends this one with SIGTERM and puts it back into the queue.
    wait_for(lambda: "waiting in attempt 0" in text(), text)
    slurm("scontrol", "requeue", job)
    wait_for(lambda: "Stopped after iteration 1 on SIGTERM" in text(), text)
    wait_for(lambda: "Restarts=1" in status(), status)
    start_again()
    # Its time is nearly over: what --signal sends. The job puts itself back into the queue.
    wait_for(lambda: "waiting in attempt 1" in text(), text)
    assert "resumed epoch: 0, iter: 1" in text()
    slurm("scancel", "--signal=USR1", job)
    wait_for(lambda: "Stopped after iteration 2 on SIGUSR1" in text(), text)
    wait_for(lambda: "Restarts=2" in status(), status)
    start_again()
    wait_for(lambda: "JobState=COMPLETED" in status(), lambda: status() + text())
    assert "resumed epoch: 0, iter: 2" in text()

    trainer = Trainer(tmp_path)
    assert trainer.run_two(config, "undisturbed") == [0, 0], trainer.output
    assert differences(final_state(tmp_path / "undisturbed"), final_state(tmp_path / "preempted")) == []
