"""Base of co-learning: heads of one kind that share their label assignment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lad.exchange.switching import RoleSwitch, Switch, SwitchFunction

from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures import SampleList
from torch import Tensor


class CoLearning(ABC):
    """Shared label assignment of heads of one kind."""

    works_with: str

    @abstractmethod
    def fits(self, head: BaseDenseHead) -> bool:
        """Whether a head is of this kind."""

    @abstractmethod
    def check(self, heads: Sequence[BaseDenseHead], switch: Switch) -> None:
        """Refuse heads whose candidates do not correspond, and settings of the switch that do not apply to them.

        Raises:
            UnsupportedError: names what differs.
        """

    @abstractmethod
    def losses(
        self,
        heads: Sequence[BaseDenseHead],
        outputs: Sequence[Any],
        data_samples: SampleList,
        switch: SwitchFunction,
    ) -> tuple[list[dict[str, Tensor]], RoleSwitch | None]:
        """Compute each head's own losses on the shared labels, and the roles that decided them.

        Args:
            heads: The heads.
            outputs: What each returned for the batch.
            data_samples: Ground truth and metadata.
            switch: Chooses the teachers.

        Returns:
            Losses of each head, and the roles; None for a batch that has no candidates.
        """
