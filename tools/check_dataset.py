"""List what is wrong with data: python tools/check_dataset.py CONFIG, or --json FILE --images FOLDER."""

from lad.commands.check import main

if __name__ == "__main__":
    main()
