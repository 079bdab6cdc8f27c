"""The volume location database (VLDB): which volume is where, by name and by id."""
