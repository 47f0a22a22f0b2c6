"""Unites the folders of a job array, whose jobs each did one part of a study (--shard)."""

from dataclasses import dataclass
from pathlib import Path

from simple_parsing import field as option

from experiments._command import command


@dataclass(frozen=True)
class Config:
    """Which folders are united."""

    runs: list[str] = option(
        default_factory=list, positional=True, help="The folders of the parts, finished or not."
    )
    out: str = option(
        default="",
        help="The folder that gets their records: a new one, or one to which parts are added. The "
        "command of the parts, without --shard and with this --out, then writes the results.",
    )


def run(config: Config) -> Path:
    """Copies the records into one folder, and prints the command that finishes the study."""
    from experiments._printing import say
    from kedit.errors import InputError
    from kedit.merging import merge
    from kedit.tables import plural

    if not config.out:
        raise InputError("--out: name the folder that gets the records")
    n_records = merge(config.runs, config.out)
    say(f"{plural(n_records, 'record')} of {plural(len(config.runs), 'run')} are in {config.out}.")
    say(f"Give the command of the parts without --shard and with --out {config.out}.")
    return Path(config.out)


if __name__ == "__main__":
    command(Config, run)
