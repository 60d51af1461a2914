"""Split a COCO file among clients: python tools/split_clients.py FILE.json --out FOLDER --classes a=RBC b=WBC."""

from lad.commands.split_clients import main

if __name__ == "__main__":
    main()
