"""Label assignment as pure functions of tensors, and where heads do it."""
