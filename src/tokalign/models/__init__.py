"""Tokenizers, chat templates, policies, reward models and sampling."""
