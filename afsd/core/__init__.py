"""The fileserver's state machines: pure, without I/O, clocks or randomness of their own."""
