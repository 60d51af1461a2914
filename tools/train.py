"""Train a detector: python tools/train.py CONFIG, with MMDetection's options."""

from lad.commands.train import main

if __name__ == "__main__":
    main()
