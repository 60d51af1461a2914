"""The two apps that Flower's processes run: the federation's server, and a client on its machine."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lad.engine.checkpoints import write_whole
from lad.federated.client import Client
from lad.federated.flower import FederatedAveraging, answer, answer_name
from lad.federated.processes import end_with, one_of, run_training
from lad.federated.server import Server, ServerOptions

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

#: Environment variable that names the file with the server's options.
SERVER = "LAD_FEDERATION_SERVER"
#: And one with the number of the process that started the SuperLink, without which the server ends.
STARTED_BY = "LAD_FEDERATION_STARTED_BY"
#: Key of a SuperNode's configuration that names the file with its client's options.
CLIENT = "lad-client"
#: What the server tells, and why it ended, in its folder.
LOG, ERROR = "federation.log", "error.txt"


@dataclass(frozen=True)
class ClientOptions:
    """What a client is started with.

    Attributes:
        name: Its name.
        config: Path of its training config.
        work_dir: Folder for its rounds.
        options: Overrides of the config.
        slots: How many clients train at once on this machine; 0 for any number.
        slots_dir: Where their lock files are.
    """

    name: str
    config: str
    work_dir: str
    options: dict[str, Any] | None = None
    slots: int = 0
    slots_dir: str = ""


def write_options(path: Path, options: ClientOptions | ServerOptions) -> Path:
    """Write options to a file for an app; returns its absolute path."""
    write_whole(path, json.dumps(asdict(options), indent=1).encode())
    return path.resolve()


def make_client(options: ClientOptions) -> Client:
    """The client that options describe."""

    def train(config: Path, folder: Path, log: Path) -> int:
        with one_of(options.slots, Path(options.slots_dir)) if options.slots else nullcontext():
            return run_training(config, folder, log)

    return Client(options.name, options.config, Path(options.work_dir), train, options.options, _tell)


def _tell(line: str) -> None:
    print(line, flush=True)


client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train_client(message: Message, context: Context) -> Message:
    """A client's round."""
    return answer(message, make_client(_options_of(context)), _tell)


@client_app.query()
def name_client(message: Message, context: Context) -> Message:
    """A client's name."""
    return answer_name(message, _options_of(context).name)


def _options_of(context: Context) -> ClientOptions:
    return ClientOptions(**json.loads(Path(str(context.node_config[CLIENT])).read_text()))


@server_app.main()
def run_server(grid: Grid, context: Context) -> None:
    """All rounds that are left."""
    end_with(int(os.environ[STARTED_BY]))
    options = ServerOptions(**json.loads(Path(os.environ[SERVER]).read_text()))
    folder = Path(options.work_dir)

    def tell(line: str) -> None:
        with open(folder / LOG, "a") as log:
            log.write(f"{line}\n")

    try:
        FederatedAveraging(Server(options, tell)).run(grid)
    except Exception as error:
        write_whole(folder / ERROR, " ".join(f"{error}".split()).encode())
        raise
