"""Lets output be printed on terminals whose encoding lacks some of its characters."""

import io
import sys


def print_anything() -> None:
    """Makes standard output print "?" for characters that its encoding lacks, such as an arrow.

    Standard error escapes such characters anyway, and a notebook can show all of them.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
