"""Label assignment as pure functions on tensors."""
