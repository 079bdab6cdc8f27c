"""The story of 2002, told by a cell of real processes on real files: `python -m demo`."""
