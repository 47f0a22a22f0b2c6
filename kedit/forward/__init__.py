"""Runs models: recorded runs, many patched cells together, many prompts together, and metrics.

Section "Two fast forwards" of docs/architecture.md says which forward is used for which question.
"""
