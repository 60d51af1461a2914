"""Exchange of label assignments between heads: seams, replay and role switching."""
