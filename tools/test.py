"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT, with MMDetection's options."""

from lad.commands.test import main

if __name__ == "__main__":
    main()
