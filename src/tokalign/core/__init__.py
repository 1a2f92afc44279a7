"""Pure functions: no I/O, no frameworks but numpy and torch."""
