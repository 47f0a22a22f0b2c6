"""Errors for input that cannot be used.

Each message names the option or record, says what came and what is needed, and what to do.
"""


class InputError(ValueError):
    """An option, setting, file or model cannot be used; a command prints the message and stops."""


class ModelUnavailable(InputError):
    """A model does not exist, or cannot be loaded on this machine."""


class RecordError(InputError):
    """A record of a data file lacks a needed field, or a field has a value that is not allowed."""


class SpanError(InputError):
    """The subject or the relation words of a fact cannot be found among its prompt's tokens."""


class NoReplacement(InputError):
    """No other words with the same number of tokens can replace the words to corrupt."""
