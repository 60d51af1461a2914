"""Draw which priors are positive: python tools/visualize_assignment.py CONFIG."""

from lad.commands.visualize import main

if __name__ == "__main__":
    main()
