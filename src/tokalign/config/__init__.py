"""Options of all commands: option groups, and one dataclass per command."""
