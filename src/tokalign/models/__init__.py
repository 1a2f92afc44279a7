"""Tokenization, policies, reward models, sampling and training."""
