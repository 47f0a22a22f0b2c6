"""Runs edit_fact: queries the model, edits it, queries it again, and saves, draws and prints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments._command import open_run
from experiments._edit_explained import EXPLAINED_MANY, EXPLAINED_ONE
from experiments._edit_screen import report_many, report_one
from experiments._loading import loaded
from experiments._printing import say_skipped


def run_one(config: Any) -> Path:
    """Edits one fact; `config` comes from `experiments._edit_example.settled`."""
    from figures.edit import before_after
    from figures.style import save
    from kedit.editing.provenance import fingerprint
    from kedit.studies.before_after import edit_and_ask
    from kedit.studies.questions import questions_of, request_of

    model = loaded(config, None)
    request = request_of(
        model, config.subject, config.prompt, config.target,
        old=config.old, relation=config.relation,
    )  # fmt: skip
    neighbours = config.neighbours or None
    questions = questions_of(
        model, request, config.perspective, config.paraphrases, neighbours, config.seed
    )
    # the folder is opened only now, so that a fact that cannot be edited leaves no folder
    with open_run("edit_fact", config) as folder:
        folder.write("README.txt", EXPLAINED_ONE)
        folder.require_weights(fingerprint(model))
        found = edit_and_ask(
            model, request, config.editor, perspective=config.perspective, questions=questions,
            neighbours=neighbours, text=config.text, tokens_per_dim=config.tokens_per_dim,
            held_out=config.held_out, seed=config.seed,
        )  # fmt: skip
        found.edit.save(folder.path / "edit.safetensors")
        found.save(folder)
        save(before_after(found), folder.path, "before-after")
        report_one(found, folder, config.dtype)
    return folder.path


def run_many(config: Any) -> Path:
    """Edits all facts of a file at once; the result is one edit."""
    from figures.edit import many_facts
    from figures.style import save
    from kedit.data.choose import usable_cases
    from kedit.studies.many_facts import edit_many

    cases, skipped = usable_cases(config.facts)
    say_skipped(config.facts, skipped, len(cases))
    with open_run("edit_fact", config) as folder:
        folder.write("README.txt", EXPLAINED_MANY)
        found = edit_many(
            loaded(config, folder), cases, config.editor, perspective=config.perspective,
            text=config.text, tokens_per_dim=config.tokens_per_dim, held_out=config.held_out,
            seed=config.seed,
        )  # fmt: skip
        say_skipped(config.facts, found.skipped)
        found = replace(found, skipped={**skipped, **found.skipped})
        found.edit.save(folder.path / "edit.safetensors")
        found.save(folder)
        save(many_facts(found), folder.path, "before-after")
        report_many(found, folder, config.dtype)
    return folder.path
