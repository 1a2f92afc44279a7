"""One module per command: read artifacts, compute, write an artifact."""
