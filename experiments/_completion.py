"""Prints a script that completes kedit's commands and options in a shell.

For bash: kedit completion bash > ~/.local/share/bash-completion/completions/kedit
"""

import argparse
import io
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments._command import command
from experiments._names import COMMANDS, purpose
from experiments._parsing import parser_of

FILES = ("--cases", "--facts", "--out", "--text", "--held-out", "--exclude", "--space", "--source")


@dataclass(frozen=True)
class Config:
    """For which shell."""

    shell: Literal["bash", "zsh", "tcsh"] = option(default="bash", positional=True)
    """The shell."""


def run(config: Config) -> Path:
    """Prints the script and returns the folder of the commands."""
    from kedit.errors import InputError

    try:
        import shtab
    except ImportError:
        raise InputError(
            "completions need the package shtab: pip install 'kedit[completion]'"
        ) from None
    parser = whole_parser(shtab.FILE)
    sys.stdout.write(shtab.complete(parser, config.shell))
    return Path(__file__).parent


def whole_parser(files: object) -> argparse.ArgumentParser:
    """Builds one parser of all commands with all their options.

    Args:
        files: how to complete an option that is a file or a folder.
    """
    parser = argparse.ArgumentParser("kedit")
    commands = parser.add_subparsers()
    for name, module in COMMANDS.items():
        own = commands.add_parser(name, help=purpose(module), add_help=False)
        config_class = import_module(module).Config
        options = parser_of(config_class, None, purpose(module), f"kedit {name}")
        # simple_parsing adds the fields of a dataclass only when it parses or prints something
        options.print_help(io.StringIO())
        for action in options._actions:
            if set(action.option_strings) & set(FILES):
                action.complete = files  # pyright: ignore[reportAttributeAccessIssue]
            own._add_action(action)
    return parser


if __name__ == "__main__":
    command(Config, run)
