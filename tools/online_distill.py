"""Serve a stream with a student that learns on it: python tools/online_distill.py CONFIG --video SOURCE."""

from lad.commands.online_distill import main

if __name__ == "__main__":
    main()
