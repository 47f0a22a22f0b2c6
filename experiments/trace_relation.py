"""Shows where a model keeps a relation: traces facts causally, by layer, token, module and head."""

from pathlib import Path

from experiments._command import command
from experiments._printing import say
from experiments._trace import Config
from experiments._traced import traced


def run(config: Config) -> Path:
    """Traces facts, averages, draws and prints; finished facts in the folder are used again."""
    with traced(config, "trace_relation") as done:
        say(f"Everything is in {done.folder.path}")
    return done.folder.path


if __name__ == "__main__":
    command(Config, run)
