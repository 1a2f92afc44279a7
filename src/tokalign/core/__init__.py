"""Pure functions: no I/O; numpy and torch are the only frameworks."""
