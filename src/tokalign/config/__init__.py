"""What every command can be told: options in groups, and one dataclass a stage."""
