"""Shows which heads carry a relation: restores each head alone, and compares relations by heads."""

from pathlib import Path
from typing import Any

from experiments._command import command
from experiments._printing import say, show
from experiments._trace import Config
from experiments._traced import traced
from kedit.data.comparable import require_relations_to_compare


def run(config: Config) -> Path:
    """Traces facts, clusters relations, draws and prints; finished facts are used again."""
    from figures.relations import clusters, looks
    from figures.style import save
    from probes.studies.heads_by_relation import compare_heads

    def compared(model: Any, traces: Any, facts: Any, journal: Any) -> Any:
        return compare_heads(model, traces, facts, config.metric, journal)

    with traced(config, "patch_heads", require_relations_to_compare, compared) as done:
        folder, found = done.folder, done.found
        for part, reason in found.not_compared.items():
            say(f"With the {part} corrupted, heads are not compared by relation: {reason}")
        if found.heads:
            found.save(folder)
            for part in found.parts:
                save(clusters(found, part), folder.path, f"{part}-relations")
            save(looks(found), folder.path, "looks")
            show(found.table())
        say(f"Everything is in {folder.path}")
    return folder.path


if __name__ == "__main__":
    command(Config, run, default=Config(sites=["z"], relations="12", limit=96))
