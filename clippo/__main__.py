"""Run the `clippo` program: `python -m clippo`, or `torchrun -m clippo`."""

from clippo.cli import main

main()
