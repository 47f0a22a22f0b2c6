"""The short names of all commands: `kedit trace` is `python -m experiments.trace_relation`."""

import ast
import importlib.util
from pathlib import Path

# the module of each command, by its short name; the last five have no other name
COMMANDS = {
    "trace": "experiments.trace_relation",
    "families": "experiments.trace_families",
    "heads": "experiments.patch_heads",
    "ask-heads": "experiments.ask_heads",
    "kinds": "experiments.relation_kinds",
    "prompts": "experiments.patch_prompts",
    "neurons": "experiments.find_neurons",
    "edit": "experiments.edit_fact",
    "compare": "experiments.compare_editors",
    "frontiers": "experiments.compare_frontiers",
    "explain": "experiments.explain_edit",
    "many": "experiments.edit_many",
    "tune": "experiments.tune_editors",
    "sites": "experiments.choose_sites",
    "ablate": "experiments.ablate_attention",
    "split": "experiments.split_cases",
    "train-mend": "experiments.train_mend",
    "build": "experiments.build_rake",
    "score": "experiments.score_model",
    "say": "experiments.say_text",
    "report": "figures.report",
    "models": "figures.models",
    "explore": "experiments._explore",
    "merge": "experiments._merge",
    "doctor": "experiments._doctor",
    "cache": "experiments._cache",
    "completion": "experiments._completion",
}


def purpose(module: str) -> str:
    """Returns the first line of a module's docstring, without importing the module."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def listed() -> str:
    """Returns the short names of all commands with what they do, one per line."""
    width = max(map(len, COMMANDS))
    return "\n".join(f"  {name:<{width}}  {purpose(of)}" for name, of in COMMANDS.items())
