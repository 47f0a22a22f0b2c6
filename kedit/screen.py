"""What is printed where the terminal's encoding lacks some of its characters."""

import io
import sys


def print_anything() -> None:
    """Has standard output replace what its encoding lacks (an arrow, a name's letter), by "?".

    Standard error spells such characters out by itself. A notebook's output takes all of them.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
