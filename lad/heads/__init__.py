"""Detection heads."""

from lad.heads.batched_paa_head import BatchedPAAHead

__all__ = ["BatchedPAAHead"]
