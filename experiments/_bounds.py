"""Checks the options of a command against the table of `kedit.bounds`, without importing torch."""

import dataclasses
import typing
from typing import Any, Literal

NEVER_EMPTY = ("counts", "sites", "positions", "halves")


def require_options_in_bounds(config: Any, experiment: str = "") -> None:
    """Raises InputError, which names the option, for a value that no run could use.

    Args:
        experiment: its name, because some options have a rule of their own in one experiment.
    """
    from kedit.bounds import broken
    from kedit.errors import InputError

    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        option = f"--{name.replace('_', '-')}"
        if dataclasses.is_dataclass(hints[name]):  # a group of options that several commands share
            require_options_in_bounds(value, experiment)
        if name in NEVER_EMPTY and value == []:
            raise InputError(f"{option}: at least one value is needed")
        if name == "matrices":
            value = value.split(",")
        if found := broken(experiment, name, value):
            raise InputError(f"{option} {found[0]}: must be {found[1]}")
        # the command line checks choices, but in a notebook nothing else does
        if typing.get_origin(hints[name]) is Literal and value not in typing.get_args(hints[name]):
            words = " ".join(filter(None, typing.get_args(hints[name])))
            raise InputError(f"{option} {value}: must be one of {words}")
