"""Where does a model keep a relation? Causal tracing of facts, by layer, token, module and head."""

from pathlib import Path

from experiments._run import command, open_run
from experiments._trace import DRAWING, Config, settled, trace_facts


def run(config: Config) -> Path:
    """Traces, averages, draws and prints; what is already in the run's folder is not done again."""
    config = settled(config)
    with open_run("trace_relation", config, DRAWING) as folder:
        traces = trace_facts(config, folder)
        from experiments._report import finish

        finish(config, folder, traces)
    return folder.path


if __name__ == "__main__":
    command(Config, run)
