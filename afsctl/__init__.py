"""afsctl, the command line of laterfs, and `afsctl.cell`, which runs a whole cell on one machine."""
