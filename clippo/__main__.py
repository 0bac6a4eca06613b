"""`python -m clippo`, and so `torchrun -m clippo`."""

import os
import sys
from pathlib import Path

# Python puts the working directory first on its path. If it is not where this package lives, a stranger's
# `model.py` there would be imported in place of ours.
home = str(Path(__file__).resolve().parent.parent)
if sys.path[0] in ("", os.getcwd()) and os.path.realpath(os.getcwd()) != home:
    del sys.path[0]

from clippo.cli import main  # noqa: E402

main()
