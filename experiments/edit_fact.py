"""Edit one fact, or those of a file: see what a model says before and after, and save the edit.

Without options it edits a worked example; a fact of one's own is a subject, a prompt and a target.
The last lines say whether the edit works, works at a price, or fails; then the exit status is 1.
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
from kedit.editors.specs import names


@dataclass(frozen=True)
class Config:
    """Which fact of which model is changed, how, and what is asked to see what else changes."""

    model: str = options.model()
    subject: str = ""
    """Whom or what the fact is about ("": the worked example's, The Eiffel Tower)."""
    prompt: str = ""
    """What the model completes, {} standing for the subject, or with the subject itself ("": {} is
    located in the city of)."""
    target: str = ""
    """What it shall say from now on ("": Rome)."""
    old: str = ""
    """What it shall no longer say ("": whatever it says by itself)."""
    paraphrases: list[str] = field(default_factory=list)
    """Other wordings of the prompt, which should change too (none: the worked example's, if its
    prompt is asked)."""
    neighbours: list[str] = field(default_factory=list)
    """Other subjects, whose answers should stay (none: likewise; else six that are drawn from
    kedit's own facts of the same relation, if it has any)."""
    relation: str = ""
    """The relation's name, as in "location": asks from the other side too; --perspective relation
    needs it."""
    facts: str = ""
    """A file of facts with targets, in place of the options above: all are edited at once, into one
    edit. JSON Lines, CSV and the other forms that compare_editors takes as --cases."""
    perspective: Literal["entity", "relation"] = "entity"
    """entity: the subject gets another object. relation: subject and target get the relation, the
    old object loses it."""
    editor: str = option(
        default="rome",
        help=f"One of {', '.join(names())}; and changes to its settings, as in "
        "rome:where=last:layer=7. GPT-2 and GPT-J have published settings; the published ROME is "
        "rome:key=legacy:moments=('FILE.npz',), with the authors' C.",
    )
    text: str = ""
    """Text whose statistics the edit is to spare: a file, hf:NAME, self for what the model itself
    says, or "" for what the editor has been told, else kedit's text (the toy: self)."""
    tokens_per_dim: int = 4
    """Tokens of that text for each number of a key, where the editor has not been told n_tokens."""
    held_out: str = ""
    """Text whose perplexity should not rise, another one than --text: a file, hf:NAME, self, or ""
    for the part of kedit's text that is held out (the toy: self)."""
    seed: int = 0
    """Of the editor's contexts and of that text (0 for what the editor has been told), and of the
    neighbours that are drawn."""
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("edit_fact")


def run(config: Config) -> Path:
    """Asks, edits, asks again; saves, draws and prints.

    Raises:
        InputError: options that do not fit together, or nothing that can be edited.
    """
    from kedit.studies.before_after import editor_with_options

    config = settled(config)
    # refused before the model is loaded
    editor_with_options(
        config.model, config.editor, config.perspective, text=config.text, seed=config.seed
    )
    return run_many(config) if config.facts else run_one(config)


def exit_code(folder: Path) -> int:
    """1 where the edit of this run fails."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return int(report["outcome"] == "fails")


if __name__ == "__main__":
    command(Config, run, exit_code=exit_code)
