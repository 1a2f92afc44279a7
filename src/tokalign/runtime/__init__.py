"""How a command runs: signals, progress, processes, limits."""
