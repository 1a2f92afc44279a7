"""Input data: files, layouts, conversations and validated rows."""
