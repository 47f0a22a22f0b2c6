"""Where does a model keep a relation? Causal tracing of facts, by layer, token, module and head."""

from pathlib import Path

from experiments._report import traced
from experiments._run import command
from experiments._trace import Config


def run(config: Config) -> Path:
    """Traces, averages, draws and prints; what is already in the run's folder is not done again."""
    return traced("trace_relation", config)


if __name__ == "__main__":
    command(Config, run)
