"""clientd, the caching client of laterfs: answers local programs from a disk cache, under the fileservers' promises."""
