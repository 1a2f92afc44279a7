"""Folders on disk: what they hold, how they are written, checked and gone on with."""
