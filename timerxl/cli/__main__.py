"""``python -m timerxl.cli COMMAND ...``: the console script for launchers that start modules."""

from timerxl.cli import main

if __name__ == "__main__":
    main()
