"""One module a command: read artifacts, call the core, write an artifact."""
