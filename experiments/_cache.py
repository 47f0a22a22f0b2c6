"""Lists what kedit has cached, or clears it: prepared models, moments and downloads.

What is cleared is made again when it is needed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments._command import command


@dataclass(frozen=True)
class Config:
    """Whether the cache is listed or cleared."""

    action: Literal["list", "clear"] = option(default="list", positional=True)
    """list: show the entries with their sizes. clear: delete them."""
    only: str = ""
    """The entries to clear, comma-separated, as list names them. Empty: all of them."""


def run(config: Config) -> Path:
    """Lists or clears the cache and returns its folder."""
    from experiments._printing import show, show_text
    from kedit.cache import cache_dir, clear, entries
    from kedit.tables import Table

    if config.action == "clear":
        freed = clear([name for name in config.only.split(",") if name])
        show_text(f"{freed / 1e9:.2f} GB were cleared from {cache_dir()}")
        return cache_dir()
    sizes = entries()
    rows = tuple((name, f"{size / 1e9:.2f}") for name, size in sizes.items())
    total = sum(sizes.values())
    show(
        Table(f"The cache in {cache_dir()}", ("entry", "GB"), rows, f"{total / 1e9:.2f} GB in all.")
    )
    return cache_dir()


if __name__ == "__main__":
    command(Config, run)
