"""Annotation page: a local web page on which a person edits responses. It loads nothing from other hosts."""
