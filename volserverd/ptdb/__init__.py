"""The protection database (PTDB): users, groups, and who is in which."""
