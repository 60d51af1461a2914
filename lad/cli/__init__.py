"""Command-line interface: arguments, checks before training, one-line errors."""
