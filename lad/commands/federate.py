"""Train a detector on several clients' data without moving the data: federated learning on Flower.

lad federate CONFIG                                        server and clients of the config, on this machine
lad federate CONFIG --listen 0.0.0.0:8000 ...              the server alone, for clients on other machines
lad federate CONFIG --client NAME --connect HOST:8000 ...  a client, on the machine with its data

The config is an ordinary training config with federation=dict(rounds=8, clients=dict(NAME=dict(ann_file='...'))). In a
round each client trains as long as the config says, from the server's weights; the server averages what they send,
evaluates it on its validation data and writes it to WORK_DIR/global.pth. An interrupted federation goes on when the
same command is given again.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lad.cli.messages import one_line_errors
from lad.cli.options import add_config_options
from lad.engine.plain_config import standalone, student_only
from lad.errors import ConfigError, DataError
from lad.federated.history import History, read_history
from lad.federated.server import ServerOptions, read_federation
from lad.federated.settings import FederationSettings, check_client_name, federation_of

from mmengine.config import Config

if TYPE_CHECKING:  # needs Flower
    from lad.federated.deployment import Security


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, or PACKAGE::PATH of an installed package")
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/CONFIG_NAME")
    parser.add_argument("--seed", type=int, help="of the federation (default: the config's)")
    parser.add_argument(
        "--parallel", type=int, default=1, help="clients that train at once on this machine (default: 1)"
    )
    parser.add_argument(
        "--in-process",
        action="store_true",
        help="clients one after the other, without Flower's network: for experiments",
    )
    where = parser.add_argument_group("on several machines")
    where.add_argument("--listen", metavar="HOST:PORT", help="be the server, on this address")
    where.add_argument("--client", metavar="NAME", help="be this client")
    where.add_argument("--connect", metavar="HOST:PORT", help="the server's address, with --client")
    security = parser.add_argument_group("TLS and authentication, as Flower has them")
    security.add_argument("--ssl-certfile", help="the server's certificate")
    security.add_argument("--ssl-keyfile", help="the server's private key")
    security.add_argument("--ssl-ca-certfile", help="the certificate that has signed the server's")
    security.add_argument(
        "--client-keys",
        nargs="+",
        default=[],
        metavar="FILE.pub",
        help="public keys of the clients that may connect",
    )
    security.add_argument("--private-key", metavar="FILE", help="of the client")
    security.add_argument("--insecure", action="store_true", help="no TLS between machines")
    add_config_options(parser)
    args = parser.parse_args()
    if (args.client is None) != (args.connect is None):
        parser.error("--client and --connect belong together")
    if args.listen is not None and args.client is not None:
        parser.error("--listen is the server's, --client a client's: give one of them")
    if args.parallel < 1:
        parser.error("--parallel must be 1 at least")
    return args


class Report:
    """Prints the rounds of a federation, and what its server tells, as they come.

    Args:
        work_dir: The server's folder.
        settings: Of the federation.
    """

    def __init__(self, work_dir: Path, settings: FederationSettings) -> None:
        self.work_dir = work_dir
        self.settings = settings
        before = read_history(work_dir)
        self._rounds = 0 if before is None else len(before.rounds)
        self._log = work_dir / "federation.log"
        self._read = self._log.stat().st_size if self._log.is_file() else 0

    def update(self) -> None:
        """Print what is new."""
        if self._log.is_file():
            with open(self._log, "rb") as log:
                log.seek(self._read)
                # A line that is being written comes whole the next time.
                new = log.read().rpartition(b"\n")[0]
                self._read += len(new) + 1 if new else 0
            if new:
                print(new.decode(errors="replace"), flush=True)
        history = read_history(self.work_dir)
        while history is not None and self._rounds < len(history.rounds):
            self._rounds += 1
            until = History(history.federation, history.seed, history.config, history.rounds[: self._rounds])
            print(until.describe_last(self.settings.rounds), flush=True)


def in_process(args: argparse.Namespace, options: ServerOptions, report: Report) -> None:
    """Server and clients in this process."""
    from lad.federated.apps import ClientOptions, make_client
    from lad.federated.local import run_locally
    from lad.federated.server import Server

    server = Server(options)
    clients = [
        make_client(ClientOptions(name, args.config, str(client_dir(args, name)), args.cfg_options))
        for name in server.settings.clients
    ]
    run_locally(server, clients, lambda done: report.update())


def on_this_machine(args: argparse.Namespace, options: ServerOptions, report: Report) -> None:
    """Flower's SuperLink, and unless it is told to listen for clients elsewhere a SuperNode for each client."""
    from lad.federated.apps import ERROR, ClientOptions, write_options
    from lad.federated.deployment import Deployment, free_port
    from lad.federated.processes import stop

    address = args.listen or f"127.0.0.1:{free_port()}"
    deployment = Deployment(args.work_dir, address, security_of(args))
    folder = deployment.folder
    error = args.work_dir / ERROR
    error.unlink(missing_ok=True)
    started: list[subprocess.Popen] = []
    try:
        started.append(deployment.start_superlink(write_options(folder / "server.json", options)))
        if args.listen:
            print(
                f"listening on {address}; clients connect with --client NAME --connect {address}", flush=True
            )
        else:
            for name in report.settings.clients:
                own = ClientOptions(
                    name,
                    args.config,
                    str(client_dir(args, name).resolve()),
                    args.cfg_options,
                    args.parallel,
                    str(folder / "slots"),
                )
                path = write_options(folder / f"client_{name}.json", own)
                started.append(deployment.start_supernode(path, name))
        run = deployment.submit()
        started.append(run)
        while run.poll() is None and started[0].poll() is None:
            time.sleep(0.5)
            report.update()
        report.update()
    finally:
        # SuperNodes first: one without its SuperLink tries to connect again.
        stop(started[::-1])
    if error.is_file():
        raise DataError(error.read_text())
    history = read_history(args.work_dir)
    if history is None or history.last is None or history.last < report.settings.rounds:
        raise DataError(
            f"the federation ended before its last round; Flower's logs are in {folder}; the same command goes on."
        )


def be_client(args: argparse.Namespace) -> None:
    """One client of a server elsewhere, until it is stopped."""
    from lad.federated.apps import ClientOptions, write_options
    from lad.federated.deployment import Deployment
    from lad.federated.processes import stop

    check_client_name(args.client)
    deployment = Deployment(args.work_dir, args.connect, security_of(args))
    own = ClientOptions(
        args.client,
        args.config,
        str(client_dir(args, args.client).resolve()),
        args.cfg_options,
    )
    path = write_options(deployment.folder / f"client_{args.client}.json", own)
    print(f"client {args.client} of {args.connect}; Ctrl-C ends it; log: {deployment.folder}", flush=True)
    node = deployment.start_supernode(path, args.client)
    try:
        while True:
            code = node.wait()
            # A server that was started anew does not know it any more.
            print(f"Flower's SuperNode ended with exit code {code}; it is started again in 10 s", flush=True)
            time.sleep(10)
            node = deployment.start_supernode(path, args.client)
    finally:
        stop([node])


def security_of(args: argparse.Namespace) -> Security:
    """TLS and authentication of the arguments."""
    from lad.federated.deployment import Security

    return Security(
        args.ssl_certfile,
        args.ssl_keyfile,
        args.ssl_ca_certfile,
        tuple(args.client_keys),
        args.private_key,
        args.insecure,
    )


def client_dir(args: argparse.Namespace, name: str) -> Path:
    """Folder of a client's rounds."""
    return args.work_dir / "clients" / name


def finish(args: argparse.Namespace, cfg: Config) -> None:
    """Draw the rounds, and say where the result is."""
    history = read_history(args.work_dir)
    assert history is not None
    if any(each.by_class for each in history.rounds):
        from lad.analysis.pictures.rounds import draw_rounds

        draw_rounds(history.rounds, args.work_dir / "rounds.png")
        print(f"{args.work_dir / 'rounds.png'}: mAP and AP of each class over the rounds")
    print(f"{args.work_dir / 'global.pth'}: the model after {history.last} rounds")
    if cfg.get("val_dataloader") is not None:
        print(f"next: python tools/test.py {args.config} {args.work_dir / 'global.pth'}")


def federate(args: argparse.Namespace) -> None:
    """Do what the arguments say."""
    if args.work_dir is None:
        args.work_dir = Path("work_dirs") / Path(args.config).stem
    args.config = str(Path(args.config).resolve()) if Path(args.config).is_file() else args.config
    if args.client is not None:
        be_client(args)
        return
    options = ServerOptions(args.config, str(args.work_dir.resolve()), args.cfg_options, args.seed)
    cfg = read_federation(options)
    settings = federation_of(cfg)
    if not settings.clients and args.listen is None:
        raise ConfigError(
            "federation.clients names no client to simulate: split the data (lad split-clients), or be a server for "
            "clients elsewhere with --listen HOST:PORT."
        )
    args.work_dir.mkdir(parents=True, exist_ok=True)
    standalone(student_only(cfg)).dump(args.work_dir / "student.py")
    run: Callable = in_process if args.in_process else on_this_machine
    run(args, options, Report(args.work_dir, settings))
    finish(args, cfg)


def main() -> None:
    """Run ``lad federate``."""
    args = parse_args()

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    with one_line_errors():
        try:
            federate(args)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here")
            sys.exit(130)


if __name__ == "__main__":
    main()
