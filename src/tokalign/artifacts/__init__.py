"""Artifacts on disk: their schemas, and how they are written, checked and resumed."""
