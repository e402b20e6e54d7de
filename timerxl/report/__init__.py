"""Pictures: the only part that imports matplotlib. Figures are drawn without a screen."""

import os
import sys
from importlib.util import find_spec

_scheme, _, _backend = os.environ.get("MPLBACKEND", "").partition("module://")
# A notebook's; `import matplotlib` fails where the module is not installed here.
if _backend and "matplotlib" not in sys.modules and find_spec(_backend.partition(".")[0]) is None:
    os.environ["MPLBACKEND"] = "agg"
