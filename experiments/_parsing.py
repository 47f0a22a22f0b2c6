"""Reads the command line of a command: its own options, and those of every command."""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import simple_parsing

from experiments._log import PLACES
from experiments._renamed import require_no_old_spelling

FOR_ALL = ("--quiet", "--verbose", "--log", "--batch-tokens")
spoken_name = ""  # how the user called the command, if not as `python -m MODULE`


class Parsed(NamedTuple):
    """What a command line says."""

    config: Any
    quiet: bool
    verbose: bool
    log: str
    batch_tokens: int


class _Formatter(simple_parsing.SimpleHelpFormatter):
    """Help without "(default: )" at options that are empty, and with a plain heading."""

    def start_section(self, heading: str | None) -> None:
        if (heading or "").endswith("['config']"):
            heading = "options of this command"
        elif (heading or "").endswith("['config.spread']"):
            heading = "options for dividing the work"
        super().start_section(heading)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_empty = action.nargs == 0 or action.default in ("", None, [], ())
        return action.help if is_empty else super()._get_help_string(action)


def parsed(config_class: type, default: Any, description: str | None) -> Parsed:
    """Reads the options; exits if an option does not exist or its value has the wrong type.

    Args:
        default: a configuration with this command's defaults, where they are not the class's.

    Raises:
        InputError: an option was renamed or has underscores, --quiet and --verbose are both set, or
            --batch-tokens is below the fewest.
    """
    from kedit.batching import FEWEST
    from kedit.errors import InputError

    file, arguments = Path(sys.argv[0]), sys.argv[1:]
    prog = spoken_name or f"python -m {file.parent.name}.{file.stem}"
    parser = parser_of(config_class, default, description, prog)
    options = {*FOR_ALL, *options_of(config_class)}
    require_no_old_spelling(file.stem, arguments, options)
    found = parser.parse_args(arguments)
    if found.quiet and found.verbose:
        raise InputError("--quiet and --verbose contradict each other: use one of them")
    if found.batch_tokens and found.batch_tokens < FEWEST:
        raise InputError(f"--batch-tokens {found.batch_tokens}: must be at least {FEWEST}")
    return Parsed(found.config, found.quiet, found.verbose, found.log, found.batch_tokens)


def options_of(config_class: type) -> Iterator[str]:
    """Yields the options of a command as they are typed, those of its groups too."""
    for name, of_type in typing.get_type_hints(config_class).items():
        if dataclasses.is_dataclass(of_type):
            yield from options_of(cast(type, of_type))
        else:
            yield f"--{name.replace('_', '-')}"


def parser_of(
    config_class: type, default: Any, description: str | None, prog: str
) -> simple_parsing.ArgumentParser:
    """Builds the parser of a command's options, with those of every command (FOR_ALL)."""
    parser = simple_parsing.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=_Formatter,
        add_config_path_arg=False,
        add_option_string_dash_variants=simple_parsing.DashVariant.DASH,
        nested_mode=simple_parsing.NestedMode.WITHOUT_ROOT,
        # an old spelling, such as --held of --held-out, must not become another option's name
        allow_abbrev=False,
    )
    parser.add_argument(
        "--quiet", action="store_true", help="Print only result tables, verdicts and errors."
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="Print also what is read and loaded, and the seconds that each stage takes.",
    )
    parser.add_argument(
        "--log",
        choices=PLACES,
        default="",
        help="Copy the finished run's options, tables and figures to Weights & Biases (offline) or "
        "TensorBoard, into the run's folder.",
    )
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=0,
        help="The most tokens that are computed at once; 0: as many as memory holds. If memory "
        "runs out, batches are halved.",
    )
    parser.add_arguments(config_class, dest="config", default=default)
    return parser
