"""Shows versions, memory, devices, models and caches, and what would stop kedit here."""

from dataclasses import dataclass
from pathlib import Path

from experiments._command import command


@dataclass(frozen=True)
class Config:
    """This command has no options of its own."""


def run(config: Config) -> Path:
    """Prints what was found and returns the folder of the caches."""
    from experiments._printing import show, show_text
    from kedit.cache import cache_dir
    from kedit.models.doctor import doctor

    found = doctor()
    for table in found.tables():
        show(table)
    for problem in found.problems:
        show_text(f"problem: {problem}")
    if not found.problems:
        show_text("Nothing was found that would stop kedit here.")
    return cache_dir()


def exit_code(folder: Path) -> int:
    """Returns 1 if something would stop kedit here."""
    from kedit.models.doctor import problems

    return int(any(problems()))


if __name__ == "__main__":
    command(Config, run, exit_code=exit_code)
