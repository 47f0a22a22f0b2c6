"""The options of a command held against the table of `kedit.bounds`: in no time, without torch."""

import dataclasses
import typing
from typing import Any, Literal

OF_LISTS = ("sites", "positions", "halves")  # of these there has to be one


def require_options_in_bounds(config: Any, experiment: str = "") -> None:
    """Raises InputError, which names the option, for a value that no run could use.

    Args:
        experiment: its name, for options that mean another thing in it than elsewhere.
    """
    from kedit.bounds import broken
    from kedit.errors import InputError

    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        option = f"--{name.replace('_', '-')}"
        if name in OF_LISTS and value == []:
            raise InputError(f"{option}: at least one is wanted")
        if name == "matrices":
            value = value.split(",")
        if found := broken(experiment, name, value):
            raise InputError(f"{option} {found[0]}: {found[1]} is wanted")
        # the command line refuses these by itself, a notebook does not
        if typing.get_origin(hints[name]) is Literal and value not in typing.get_args(hints[name]):
            words = " ".join(filter(None, typing.get_args(hints[name])))
            raise InputError(f"{option} {value}: one of {words} is wanted")
