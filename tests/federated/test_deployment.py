"""What Flower's processes are started with, and how processes end."""

import subprocess
import sys
import time
from pathlib import Path

from lad.errors import ConfigError
from lad.federated.processes import one_of, start, stop

import pytest

pytest.importorskip("flwr", reason="the extra federated")

from lad.federated.deployment import QUIET, Deployment, Security, is_this_machine, parse_address


def test_addresses():
    assert parse_address("127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert parse_address("[::1]:80") == ("::1", 80)
    for wrong in ("8000", "host", "host:", ":80", "host:99999", "host:x"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            parse_address(wrong)
    assert [is_this_machine(host) for host in ("localhost", "127.0.0.1", "::1")] == [True] * 3
    assert not any(is_this_machine(host) for host in ("0.0.0.0", "10.0.0.1", "server.example.org"))


def test_other_machines_without_tls_are_refused_unless_it_is_said(tmp_path):
    with pytest.raises(ConfigError, match="there is no TLS"):
        Deployment(tmp_path, "0.0.0.0:8000", Security())
    Deployment(tmp_path, "0.0.0.0:8000", Security(insecure=True))
    with pytest.raises(ConfigError, match=r"there is no file 'ca\.crt'"):
        Security(ca_certfile="ca.crt")
    key = tmp_path / "a.pub"
    key.write_text("key")
    with pytest.raises(ConfigError, match="over TLS alone"):
        Security(client_keys=(str(key),), insecure=True)


def test_telemetry_and_installing_are_off_and_flowers_files_are_in_the_work_dir(tmp_path):
    deployment = Deployment(tmp_path, "127.0.0.1:8000", Security())
    assert QUIET.items() <= deployment.environment.items()
    assert QUIET["FLWR_TELEMETRY_ENABLED"] == "0"
    assert QUIET["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert Path(deployment.environment["FLWR_HOME"]).is_relative_to(tmp_path.resolve())


def is_running(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_process_ends_with_the_one_that_started_it(tmp_path):
    code = (
        "import lad, os, sys, time; from pathlib import Path; from lad.federated.processes import start\n"
        f"child = start(['sleep', '60'], Path({str(tmp_path / 'log')!r}))\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    end = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_stop_ends_a_process_and_its_output_is_kept(tmp_path):
    process = start(["sh", "-c", "echo begun; sleep 60"], tmp_path / "log")
    end = time.monotonic() + 10
    while "begun" not in (tmp_path / "log").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    stop([process])
    assert process.poll() is not None


def test_slot_is_free_again_after_its_use(tmp_path):
    with one_of(1, tmp_path):
        pass
    with one_of(2, tmp_path), one_of(2, tmp_path):
        pass
