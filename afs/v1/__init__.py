"""Generated from proto/afs/v1 by `make proto`; never edited."""
