"""What can be wrong with what a user gives: each message names it, what was wanted and the mend."""


class InputError(ValueError):
    """Something given from outside cannot be used; a command prints the message and stops."""


class ModelUnavailable(InputError):
    """No such model, or it cannot be had from here."""


class RecordError(InputError):
    """A record of a data file breaks its schema."""


class SpanError(InputError):
    """Subject or relation words of a fact cannot be found as tokens of its prompt."""


class NoReplacement(InputError):
    """Nothing of the same token length can stand in for the words to corrupt."""
