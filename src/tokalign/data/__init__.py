"""Rows of others and of ours: files, layouts, conversations."""
