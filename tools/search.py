"""Search a config's numbers: python tools/search.py CONFIG --space KEY=log:0.1..10 --trials 20."""

from lad.commands.search import main

if __name__ == "__main__":
    main()
