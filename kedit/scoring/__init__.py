"""Scores a model on benchmark cases and held-out text, before and after an edit."""
