"""Which heads carry a relation? Every head's z restored by itself, by layer and token."""

from pathlib import Path

from experiments._report import traced
from experiments._run import command
from experiments._trace import Config


def run(config: Config) -> Path:
    """Traces, averages, draws and prints; what is already in the run's folder is not done again."""
    return traced("patch_heads", config)


if __name__ == "__main__":
    command(Config, run, default=Config(sites=["z"]))
