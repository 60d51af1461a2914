"""What a config's networks cost: python tools/model_info.py CONFIG."""

from lad.commands.info import main

if __name__ == "__main__":
    main()
