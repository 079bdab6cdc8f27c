"""The container cluster, broken on purpose: `make cluster-test`."""
