"""Train the demo's teacher and students, and print a table: python tools/demo.py."""

from lad.commands.demo import main

if __name__ == "__main__":
    main()
