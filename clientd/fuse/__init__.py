"""The mount: the kernel's FUSE protocol, spoken on /dev/fuse, over the cache manager's services."""
