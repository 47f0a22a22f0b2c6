"""The command lines of this package: options from a dataclass, errors in one line."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from simple_parsing import DashVariant, parse

Config = TypeVar("Config", bound=Any)


def command(
    kind: type[Config], name: str, description: str | None, work: Callable[[Config], str]
) -> None:
    """Parses the options, does the work, and prints what it says.

    Errors that a user can fix are printed in one line.

    Args:
        kind: a dataclass of the options, one of which is `out`.
        name: of the module that is run.
        description: what the command does, for its help.
        work: returns a sentence about what was written.
    """
    from kedit.screen import print_anything

    print_anything()
    config = parse(
        kind,
        prog=f"python -m {name}",
        add_config_path_arg=False,
        add_option_string_dash_variants=DashVariant.DASH,
        description=description,
    )
    from rich.console import Console

    from kedit.errors import InputError

    try:
        said = work(config)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or config.out}: {error.strerror}")
    Console(soft_wrap=True, highlight=False).print(said, markup=False)
