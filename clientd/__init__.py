"""clientd, the caching client of laterfs: answers from a disk cache, under promises."""
