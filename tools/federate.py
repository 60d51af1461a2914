"""Train on several clients' data: python tools/federate.py CONFIG, with federation=dict(...) in the config."""

from lad.commands.federate import main

if __name__ == "__main__":
    main()
