"""Online distillation: a student learns from a teacher on the stream that it serves (JITNet)."""
