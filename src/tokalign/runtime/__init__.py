"""Runtime support for commands: signals, progress, worker processes, file access and resource limits."""
