"""Fine-grained alignment of language models: edits, token labels, token rewards, token-level PPO."""

__version__ = "0.2.0"
