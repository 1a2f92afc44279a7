"""The playground: a small synthetic dataset, so that the whole pipeline runs offline.

It replaces a real base model and a real annotator: prompts contain several requests, and responses contain the kinds
of flaw shown in the paper's figures. See :mod:`tokalign.playground.world`.
"""
