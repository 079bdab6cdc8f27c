"""The client's rules as pure state machines: no I/O, no clock; `now` is steady seconds."""
