"""The command `kedit`, which runs every other command by a short name."""

import runpy
import sys

from experiments import _parsing
from experiments._names import COMMANDS, listed
from kedit.screen import print_anything

WRONG_USE = 2  # exit status of a wrong command line, as in argparse


def main() -> None:
    """Runs the command that the first argument names, with the other arguments."""
    print_anything()
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(
            f"usage: kedit COMMAND [OPTIONS]\n\n{listed()}\n\n"
            "kedit COMMAND --help shows the options of a command.\n"
        )
    elif name not in COMMANDS:
        sys.stderr.write(
            f"error: {name} is not a command of kedit. The commands are:\n{listed()}\n"
        )
        sys.exit(WRONG_USE)
    else:
        _parsing.spoken_name = f"kedit {name}"
        sys.argv[1:] = rest
        # as `python -m MODULE` does it: sys.argv[0] becomes the module's file
        runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
