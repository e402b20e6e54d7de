"""The command ``timerxl ensemble`` of this checkout: python launch/ensemble.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from timerxl.cli import end, main_of

main = main_of(__file__)

if __name__ == "__main__":
    end(main())
