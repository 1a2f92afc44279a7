"""What ``import tokalign`` offers: labels and scores without a disk, commands as functions, artifacts as data."""
