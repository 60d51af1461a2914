"""The federation as Flower's apps: what the server sends, what clients answer, and Flower's FedAvg with our average.

Needs the extra ``federated``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lad.errors import LadError, MissingPackageError
from lad.federated.aggregation import State
from lad.federated.client import Client, Task, Update
from lad.federated.history import ClientReport, Round
from lad.federated.server import Server

import torch
from torch import Tensor

try:
    from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg
except ImportError as error:
    raise MissingPackageError(
        "a federation needs Flower, which needs Python 3.11 or newer: pip install 'lad-detection[federated]'."
    ) from error

#: Names of the records of a message.
ARRAYS, CONFIG, METRICS, CLIENT = "arrays", "config", "metrics", "client"
#: By which Flower's FedAvg weighs the replies.
NUM_EXAMPLES = "num-examples"


def to_arrays(state: State) -> ArrayRecord:
    """A state dict as Flower sends it; bfloat16, which numpy lacks, as float32."""
    return ArrayRecord(
        {
            name: value.float() if value.dtype == torch.bfloat16 else value.contiguous()
            for name, value in state.items()
        }
    )


def to_state(arrays: ArrayRecord) -> dict[str, Tensor]:
    """A state dict from what Flower has received."""
    return dict(arrays.to_torch_state_dict())


def task_record(task: Task) -> ConfigRecord:
    """What the server asks, as Flower sends it."""
    return ConfigRecord(
        {
            "federation": task.federation,
            "number": task.number,
            "seed": task.seed,
            "classes": json.dumps(task.classes),
            "norm": task.norm,
        }
    )


def read_task(record: Mapping[str, Any]) -> Task:
    """What the server asks, from what Flower has received."""
    classes = json.loads(record["classes"])
    return Task(
        str(record["federation"]),
        int(record["number"]),
        int(record["seed"]),
        None if classes is None else tuple(classes),
        record["norm"],
    )


def answer(message: Message, client: Client, failed: Callable[[str], None] = lambda reason: None) -> Message:
    """A client's reply to the server's message: the weights after a round, or why there are none.

    Args:
        message: The server's.
        client: The client.
        failed: Takes why there are none, where the server's log is not the client's own.
    """
    task = read_task(message.content.config_records[CONFIG])
    try:
        update = client.round(task, to_state(message.content.array_records[ARRAYS]))
    except LadError as error:
        # The round goes on with the others, and the server's log tells why.
        update = None
        reason = " ".join(str(error).split())
        failed(reason)
    report = ClientReport(0) if update is None else update.report
    # All replies have the same entries, as Flower wants it.
    metrics: dict[str, Any] = {
        NUM_EXAMPLES: report.images,
        "loss": float("nan") if report.loss is None else report.loss,
        "seconds": float(report.seconds),
    }
    about: dict[str, Any] = {"name": client.name, "error": "" if update is not None else reason}
    state = {} if update is None else update.state
    content = RecordDict(
        {ARRAYS: to_arrays(state), METRICS: MetricRecord(metrics), CLIENT: ConfigRecord(about)}
    )
    return Message(content=content, reply_to=message)


def answer_name(message: Message, name: str) -> Message:
    """A client's reply to the server's question for its name."""
    return Message(content=RecordDict({CLIENT: ConfigRecord({"name": name})}), reply_to=message)


def read_answer(content: RecordDict) -> tuple[str, Update | str]:
    """A client's name, and its update or why there is none."""
    about = content.config_records[CLIENT]
    name = str(about["name"])
    if about["error"]:
        return name, str(about["error"])
    metrics: Mapping[str, Any] = content.metric_records[METRICS]
    loss = float(metrics["loss"])
    report = ClientReport(
        int(metrics[NUM_EXAMPLES]), None if loss != loss else loss, float(metrics["seconds"])
    )
    return name, Update(to_state(content.array_records[ARRAYS]), report)


class FederatedAveraging(FedAvg):
    """Flower's ``FedAvg`` with the rounds, the sampling and the average of a :class:`lad.federated.server.Server`.

    What differs: round numbers go on where a stopped federation was; which clients train is a function of the seed and
    their names, which the server asks for where not all train, since Flower numbers its nodes at random; the average
    keeps data types, does not depend on which reply comes first, and leaves out replies that have no images or no
    numbers; all replies without images are no division by zero.

    Args:
        server: The server.
        finished: Called after each round.
    """

    def __init__(self, server: Server, finished: Any = lambda done: None) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=1, min_evaluate_nodes=0, min_available_nodes=1
        )
        self.server = server
        self.finished = finished
        #: Between Flower's numbers of rounds and the federation's.
        self.offset = max(server.next_round, 1) - 1
        self._is_first = True
        self._asked = 0
        #: Names of the clients by their nodes, as far as they were asked.
        self._names: dict[int, str] = {}

    def run(self, grid: Grid) -> None:
        """Run the rounds that are left."""
        left = self.server.settings.rounds - self.offset
        if left < 1:
            return
        self.start(
            grid=grid,
            initial_arrays=to_arrays(self.server.state),
            num_rounds=left,
            timeout=self.server.settings.timeout,
            evaluate_fn=self.evaluate,
        )

    def evaluate(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Finish a round; before the first one, evaluate the model that it begins with."""
        if server_round == 0 and self.server.next_round > 0:
            return None  # it was, before the federation was stopped
        done: Round = self.server.finish(self.offset + server_round)
        self.finished(done)
        return MetricRecord(dict(done.metrics)) if done.metrics else None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of a round, to the clients that train in it."""
        number = self.offset + server_round
        task = self.server.begin(number)
        nodes = self._draw(grid, self._wait_for_nodes(grid), number)
        self._asked = len(nodes)
        record = RecordDict({ARRAYS: arrays, CONFIG: task_record(task)})
        return self._construct_messages(record, nodes, "train")

    def _wait_for_nodes(self, grid: Grid) -> list[int]:
        """The connected clients, once there are enough."""
        settings = self.server.settings
        wanted = max(settings.min_clients, len(settings.clients) if self._is_first else 0)
        self._is_first = False
        told = -1
        while len(nodes := list(grid.get_node_ids())) < wanted:
            if len(nodes) != told:
                told = len(nodes)
                self.server.tell(f"waiting for clients: {told} of {wanted} are connected")
            time.sleep(1)
        return nodes

    def _draw(self, grid: Grid, nodes: list[int], number: int) -> list[int]:
        """The nodes whose clients train in a round."""
        if self.server.settings.fraction == 1:
            return sorted(nodes)
        self._ask_names(grid, [node for node in sorted(nodes) if node not in self._names])
        named: dict[str, list[int]] = {}
        for node in sorted(nodes):
            if node in self._names:
                named.setdefault(self._names[node], []).append(node)
        return [node for name in self.server.sample(named, number) for node in named[name]]

    def _ask_names(self, grid: Grid, nodes: list[int]) -> None:
        """Ask nodes for the names of their clients; those that do not tell it do not train in this round."""
        if not nodes:
            return
        messages = self._construct_messages(RecordDict(), nodes, MessageType.QUERY)
        for reply in grid.send_and_receive(messages, timeout=self.server.settings.timeout):
            if not reply.has_error():
                name = reply.content.config_records[CLIENT]["name"]
                self._names[reply.metadata.src_node_id] = str(name)
        if missing := [node for node in nodes if node not in self._names]:
            self.server.fail(f"{len(missing)} of {len(nodes)} clients did not tell their names")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The average of a round."""
        updates: dict[str, Update] = {}
        replies = list(replies)
        if missing := self._asked - len(replies):
            self.server.fail(
                f"{missing} of {self._asked} clients did not answer in {self.server.settings.timeout:g} s"
            )
        for message in replies:
            if message.has_error():
                self.server.fail(
                    f"a client (node {message.metadata.src_node_id}) did not end its round: {message.error.reason}"
                )
                continue
            name, update = read_answer(message.content)
            if isinstance(update, str):
                self.server.fail(update)
            elif name in updates:
                self.server.fail(f"two clients are called {name!r}: the second one does not count")
            else:
                updates[name] = update
        average = self.server.average(updates)
        loss: dict[str, Any] = {
            name: update.report.loss for name, update in updates.items() if update.report.loss is not None
        }
        return to_arrays(average), MetricRecord(loss) if loss else None

    def summary(self) -> None:
        """Nothing: the command tells what there is to tell."""
