"""The subcommand groups, one file each."""
