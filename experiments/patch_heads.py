"""Which heads carry a relation? Every head's z restored by itself; heads compared by relation."""

from pathlib import Path

from experiments._enough import require_relations_to_compare
from experiments._run import command
from experiments._trace import Config


def run(config: Config) -> Path:
    """Traces, averages, clusters, draws, prints; what is in the run's folder is not done again."""
    from experiments._head_report import finish
    from experiments._report import traced

    return traced("patch_heads", config, finish, require_relations_to_compare)


if __name__ == "__main__":
    command(Config, run, default=Config(sites=["z"], relations="12", limit=96))
