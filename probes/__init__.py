"""Probes: measurements of where and how a language model recalls a fact. They change no weights."""
