"""A small world made by code, so that the whole pipeline runs offline.

It is a stand-in for a real base model and a real annotator: prompts hold several requests, and
responses carry the kinds of flaw that the paper's figures show. See :mod:`tokalign.playground.world`.
"""
