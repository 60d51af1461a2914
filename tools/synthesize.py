"""Synthesise training images from a trained detector: python tools/synthesize.py CONFIG CHECKPOINT --out FOLDER."""

from lad.commands.synthesize import main

if __name__ == "__main__":
    main()
