"""Label assignment as pure functions of tensors."""
