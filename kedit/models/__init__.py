"""Loads models, turns text into tokens, and hides the differences between families of models."""
