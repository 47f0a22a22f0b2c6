"""Edits one fact, or those of a file, shows the model's text before and after, and saves the edit.

Without options it edits a worked example. For your own fact give a subject, a prompt and a target.
The last lines say whether the edit works, works at a price, or fails. If it fails, the exit status
is 1.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from simple_parsing import field as option

from experiments import _options as options
from experiments._command import command
from experiments._edit_example import settled
from experiments._edit_run import run_many, run_one
from experiments._forms import PUBLISHED
from kedit.editors.specs import names


@dataclass(frozen=True)
class Config:
    """Which fact of which model is edited, how, and which prompts show what else changes."""

    model: str = options.model()
    subject: str = ""
    """Whom or what the fact is about. Empty: The Eiffel Tower, of the worked example."""
    prompt: str = ""
    """The prompt that the model completes, with {} in place of the subject or with the subject.
    Empty: {} is located in the city of."""
    target: str = ""
    """What the model should say after the edit. Empty: Rome."""
    old: str = ""
    """What the model should no longer say. Empty: the unedited model's answer."""
    paraphrases: list[str] = field(default_factory=list)
    """Other wordings of the prompt, whose answer should change too. Empty: those of the worked
    example, if its prompt is used."""
    neighbours: list[str] = field(default_factory=list)
    """Other subjects, whose answers should stay. Empty: those of the worked example, if its prompt
    is used; otherwise up to six from kedit's built-in facts of the same relation."""
    relation: str = ""
    """The relation's name, such as location. With it, prompts of the other side are scored too;
    --perspective relation needs it."""
    facts: str = ""
    """A file of facts with targets, instead of the options above: JSON Lines, CSV, or another form
    that compare_editors accepts as --cases. All facts are edited at once, in one edit."""
    perspective: Literal["entity", "relation"] = "entity"
    """The side that is edited. entity: the subject gets another object. relation: subject and
    target get the relation, and subject and old object lose it."""
    editor: str = option(
        default="rome",
        help=f"The editor: one of {', '.join(names())}, with changes to its settings, as in "
        f"rome:where=last:layer=7. {PUBLISHED}",
    )
    text: str = options.text("the editor's own setting, else kedit's text (for the toy: self)")
    tokens_per_dim: int = options.tokens_per_dim()
    held_out: str = options.held_out("Text other than --text, whose perplexity should not rise")
    seed: int = options.seed(
        "contexts, the text of self and drawn neighbours; 0 leaves a seed in --editor as it is"
    )
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("edit_fact")


def run(config: Config) -> Path:
    """Queries the model, edits it, queries it again; saves, draws and prints.

    Raises:
        InputError: options do not fit together, or no fact can be edited.
    """
    from kedit.studies.before_after import editor_with_options

    config = settled(config)
    # refuses settings that do not fit before the model is loaded
    editor_with_options(
        config.model, config.editor, config.perspective, text=config.text, seed=config.seed
    )
    return run_many(config) if config.facts else run_one(config)


def exit_code(folder: Path) -> int:
    """Returns 1 if the edit of this run fails, else 0."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return int(report["outcome"] == "fails")


if __name__ == "__main__":
    command(Config, run, exit_code=exit_code)
