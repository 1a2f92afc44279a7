"""The Python API: token labels and rewards in memory, commands as functions, artifacts as datasets."""
