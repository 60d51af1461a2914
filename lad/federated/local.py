"""A federation in one process: Flower's messages and FedAvg without Flower's network."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from lad.federated.client import Client
from lad.federated.flower import FederatedAveraging, answer, answer_name
from lad.federated.server import Server

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid(Grid):
    """Flower's grid whose nodes are clients of this process, which train one after the other.

    Args:
        clients: Client number i is node i + 1.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = dict(enumerate(clients, start=1))
        # Flower's processes get them from its SuperLink, and messages have them for their sender.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 0

    def get_node_ids(self) -> Iterable[int]:
        """The numbers of all clients."""
        return list(self.clients)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The clients' replies; one that fails otherwise than by its data is an error, and the others go on."""
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        client = self.clients[message.metadata.dst_node_id]
        if message.metadata.message_type == MessageType.QUERY:
            return answer_name(message, client.name)
        try:
            return answer(message, client)
        except Exception as error:
            return Message(Error(code=1, reason=f"client {client.name}: {error!r}"), reply_to=message)

    # What Flower's network does, and nothing here asks for.

    def set_run(self, run: Run) -> None:
        """There is one run."""

    @property
    def run(self) -> Run:
        """Refused: there is one run, and it has no record."""
        raise NotImplementedError("a LocalGrid has no record of its run")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content=content, message_type=message_type, dst_node_id=dst_node_id, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refused: messages are answered at once."""
        raise NotImplementedError("a LocalGrid answers messages in send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refused: messages are answered at once."""
        raise NotImplementedError("a LocalGrid answers messages in send_and_receive")


def run_locally(server: Server, clients: Sequence[Client], finished: object = lambda done: None) -> None:
    """Run the rounds of a federation that are left, client after client in this process.

    Args:
        server: Of the federation.
        clients: All of it.
        finished: Called with each finished round.
    """
    # It tells of every round at length, and warns of evaluation by clients, which there is none of here on purpose.
    logging.getLogger("flwr").setLevel(logging.ERROR)
    FederatedAveraging(server, finished).run(LocalGrid(clients))
