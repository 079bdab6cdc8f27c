"""afsctl, the command line of laterfs, and `afsctl.cell`, a whole cell on one machine."""
