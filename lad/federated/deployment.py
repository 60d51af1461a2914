"""Flower's processes: a SuperLink with the server's app, SuperNodes with a client each."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lad.engine.checkpoints import write_whole
from lad.errors import ConfigError, DataError, MissingPackageError
from lad.federated.apps import CLIENT, SERVER, STARTED_BY
from lad.federated.client import last_line
from lad.federated.processes import start

#: Settings of all of Flower's processes: nothing is reported, looked up or installed over the network.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
#: Name of the connection in Flower's configuration.
CONNECTION = "federation"
#: Seconds in which a SuperLink answers.
STARTUP = 60.0
_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "lad-federation"
version = "1.0.0"
description = "A federation of lad; what runs is the installed package"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "lad"

[tool.flwr.app.components]
serverapp = "lad_federation_server:app"
clientapp = "lad_federation_client:app"
"""
_MODULE = """\
from lad.federated import apps

app = apps.{name}
"""


@dataclass(frozen=True)
class Security:
    """TLS and authentication of a federation's connections, as Flower has them.

    Attributes:
        certfile, keyfile: Of the server, for TLS.
        ca_certfile: The certificate that has signed the server's.
        client_keys: Public keys of the clients that may connect; none: any.
        private_key: A client's.
        insecure: Connect without TLS, on addresses of other machines too.
    """

    certfile: str | None = None
    keyfile: str | None = None
    ca_certfile: str | None = None
    client_keys: tuple[str, ...] = ()
    private_key: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        for path in (self.certfile, self.keyfile, self.ca_certfile, self.private_key, *self.client_keys):
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"there is no file {path!r}.")
        if self.client_keys and self.insecure:
            raise ConfigError("clients are authenticated over TLS alone: leave out --insecure.")


class Deployment:
    """Starts Flower's processes; their files are in ``FOLDER/flower``.

    Args:
        folder: Of the server or the client.
        address: Of the SuperLink, ``HOST:PORT``.
        security: TLS and authentication.

    Raises:
        ConfigError: the address is none, or would be reached from other machines without TLS.
        MissingPackageError: Flower's programs are not beside this Python's.
    """

    def __init__(self, folder: Path, address: str, security: Security) -> None:
        self.folder = folder.resolve() / "flower"
        self.host, self.port = parse_address(address)
        self.security = security
        self.uses_tls = security.ca_certfile is not None
        if not self.uses_tls and not security.insecure and not is_this_machine(self.host):
            raise ConfigError(
                f"{address} is not of this machine alone, and there is no TLS: give certificates "
                "(docs/federated.md), or --insecure in a network that you trust."
            )
        self.environment = {**QUIET, "FLWR_HOME": str(self.folder / "home"), "PATH": _path()}
        self.folder.mkdir(parents=True, exist_ok=True)

    def start_superlink(self, server_options: Path) -> subprocess.Popen:
        """Start the SuperLink, whose server app reads its options from a file, and wait until it answers.

        Raises:
            DataError: it ends, or does not answer.
        """
        security = self.security
        command = [program("flower-superlink"), "--host", self.host, "--port", str(self.port)]
        if self.uses_tls:
            if security.certfile is None or security.keyfile is None:
                raise ConfigError("TLS needs --ssl-certfile, --ssl-keyfile and --ssl-ca-certfile.")
            command += ["--ssl-certfile", security.certfile, "--ssl-keyfile", security.keyfile]
            command += ["--ssl-ca-certfile", str(security.ca_certfile)]
        else:
            command += ["--insecure"]
        if security.client_keys:
            command += ["--enable-supernode-auth"]
        log = self.folder / "superlink.log"
        environment = {**self.environment, SERVER: str(server_options), STARTED_BY: str(os.getpid())}
        self._write_connection()
        process = start(command, log, environment)
        end = time.monotonic() + STARTUP
        while not self._answers():
            if process.poll() is not None or time.monotonic() > end:
                raise DataError(
                    f"Flower's SuperLink does not answer on {self.host}:{self.port}: {last_line(log)}"
                )
            time.sleep(0.2)
        for key in security.client_keys:
            self._flwr("supernode", "register", key, CONNECTION)
        return process

    def start_supernode(self, client_options: Path, name: str) -> subprocess.Popen:
        """Start a SuperNode whose client reads its options from a file."""
        command = [program("flower-supernode"), "--superlink", f"{self.host}:{self.port}"]
        command += ["--host", "127.0.0.1", "--port", str(free_port())]
        command += ["--node-config", f'{CLIENT}="{client_options}"']
        command += (
            ["--root-certificates", str(self.security.ca_certfile)] if self.uses_tls else ["--insecure"]
        )
        if self.security.private_key is not None:
            command += ["--auth-supernode-private-key", self.security.private_key]
        # Each keeps its installed apps: two would write the same files at once.
        environment = {**self.environment, "FLWR_HOME": str(self.folder / f"home_{name}")}
        return start(command, self.folder / f"supernode_{name}.log", environment)

    def submit(self) -> subprocess.Popen:
        """Run the federation's app on the SuperLink; the process ends with the run."""
        app = self.folder / "app"
        write_whole(app / "pyproject.toml", _PROJECT.encode())
        for part in ("server", "client"):
            module = _MODULE.format(name=f"{part}_app")
            write_whole(app / f"lad_federation_{part}.py", module.encode())
        command = [program("flwr"), "run", str(app), CONNECTION, "--stream"]
        return start(command, self.folder / "run.log", self.environment)

    def _flwr(self, *arguments: str) -> None:
        done = subprocess.run(
            [program("flwr"), *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DataError(
                f"flwr {' '.join(arguments)}: {' '.join((done.stdout + done.stderr).split())[-400:]}"
            )

    def _write_connection(self) -> None:
        lines = [f"[superlink.{CONNECTION}]", f'address = "{self.host}:{self.port}"']
        lines.append(
            f'root-certificates = "{Path(str(self.security.ca_certfile)).resolve()}"'
            if self.uses_tls
            else "insecure = true"
        )
        text = f'[superlink]\ndefault = "{CONNECTION}"\n\n' + "\n".join(lines) + "\n"
        write_whole(self.folder / "home" / "config.toml", text.encode())

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                pass
            if self.uses_tls:
                return True
            with urllib.request.urlopen(f"http://{self.host}:{self.port}/health", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False


def program(name: str) -> str:
    """Path of one of Flower's programs, beside this Python's.

    Raises:
        MissingPackageError: it is not there.
    """
    found = shutil.which(name, path=_path())
    if found is None:
        raise MissingPackageError(f"there is no program {name}: pip install 'lad-detection[federated]'.")
    return found


def _path() -> str:
    """Flower's programs start each other by name: this Python's come first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    Raises:
        ConfigError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"an address is HOST:PORT, such as 127.0.0.1:8000, got {text!r:.60}.")
    return host.strip("[]"), int(port)


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
