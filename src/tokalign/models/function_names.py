"""Names of user reward functions on the command line."""

from pathlib import Path


def is_function(source: str) -> bool:
    """Whether a ``--reward-model`` value names a function, ``package.module:name``, and not an existing path."""
    module, _, name = source.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split(".")) and not Path(source).exists()
