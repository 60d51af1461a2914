"""Label images with a trained detector: python tools/label.py CONFIG CHECKPOINT --images FOLDER --out FILE.json."""

from lad.commands.label import main

if __name__ == "__main__":
    main()
