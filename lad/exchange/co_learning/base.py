"""What it takes for heads of one kind to decide their labels together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lad.exchange.switching import RoleSwitch, Switch

from mmdet.structures import SampleList
from torch import Tensor, nn


class CoLearning(ABC):
    """A way for heads of one kind to share their label decision."""

    works_with: str

    @abstractmethod
    def fits(self, head: nn.Module) -> bool:
        """Whether a head decides its labels in this way."""

    @abstractmethod
    def check(self, heads: Sequence[nn.Module], switch: Switch) -> None:
        """Refuse heads whose candidates do not correspond, and what the switch cannot decide for them.

        Raises:
            UnsupportedError: names what differs.
        """

    @abstractmethod
    def losses(
        self, heads: Sequence[nn.Module], outputs: Sequence[Any], data_samples: SampleList, switch: Switch
    ) -> tuple[list[dict[str, Tensor]], RoleSwitch | None]:
        """Each head's own losses on the labels that all share, and who decided them.

        Args:
            heads: The heads.
            outputs: What each returned for the batch.
            data_samples: Ground truth and metadata.
            switch: Decides who teaches.

        Returns:
            Losses of each head, and the roles; None for a batch that has no candidates.
        """
