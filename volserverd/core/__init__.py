"""The volserver's pure state machines: who has which volume, and in what order one steps."""
