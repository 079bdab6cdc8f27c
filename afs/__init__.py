"""What the daemons share: the field's types and errors, the volume package, the daemon runtime. Imports no daemon."""
