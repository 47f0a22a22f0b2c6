"""Edit one fact, or those of a file: see what a model says before and after, and save the edit.

Without options it edits a worked example; a fact of one's own is a subject, a prompt and a target.
The last lines say whether the edit works, works at a price, or fails; then the exit status is 1.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from simple_parsing import field as option

from experiments._asked import questions, relation_side, request_of
from experiments._before_after import Row, replies
from experiments._edit_price import held_out_text, name_of, perplexity
from experiments._edit_report import exit_code, finish
from experiments._edit_verdict import Done
from experiments._moments import with_tokens
from experiments._run import command, open_run
from experiments._text_length import require_bytes, require_tokens
from kedit.editors.specs import names
from kedit.studies.toy_mend import trained_for_toy

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.editing.edit import Editor, Edits


@dataclass(frozen=True)
class Config:
    """Which fact of which model is changed, how, and what is asked to see what else changes."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    subject: str = ""
    """Whom or what the fact is about ("": the worked example's, The Eiffel Tower)."""
    prompt: str = ""
    """What the model completes, {} standing for the subject, or with the subject itself ("": {} is
    located in the city of)."""
    target: str = ""
    """What it shall say from now on ("": Rome)."""
    true: str = ""
    """What it shall no longer say ("": whatever it says by itself)."""
    more: list[str] = field(default_factory=list)
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
    tokens_a_key: int = 4
    """Tokens of that text for each number of a key, where the editor has not been told n_tokens."""
    held_out: str = ""
    """Text whose perplexity should not rise, another one than --text: a file, hf:NAME, self, or ""
    for the part of kedit's text that is held out (the toy: self)."""
    seed: int = 0
    """Of the editor's contexts and of that text (0 for what the editor has been told), and of the
    neighbours that are drawn."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/edit_fact/MODEL-HASH)."""


EXAMPLE = Config(
    subject="The Eiffel Tower",
    prompt="{} is located in the city of",
    target="Rome",
    more=[
        "{} is a landmark in the city of",
        "{} can be found in",
        "{} is one of the sights of",
        "To visit {}, you have to travel to",
    ],
    neighbours=[
        "The Louvre",
        "The Arc de Triomphe",
        "The Brandenburg Gate",
        "The Sagrada Familia",
        "The Statue of Liberty",
        "The Space Needle",
    ],
    relation="location",
)


def run(config: Config) -> Path:
    """Asks, edits, asks again; saves, draws and prints."""
    if config.facts:
        from experiments._edit_many import edit_file

        chosen = _editor(config)
        return edit_file(config, chosen, lambda model: _ready(chosen, model, config))
    config = settled(config)
    # not before the options are settled: it takes seconds
    from kedit.models.load import load

    chosen = _editor(config)
    require_bytes(config)
    model = load(config.model, config.device, config.dtype)
    require_tokens(config, model)
    entity = request_of(model, config)
    request = entity if config.perspective == "entity" else relation_side(model, entity)
    asked = questions(model, config, entity)
    held_out = held_out_text(model, config, chosen)
    before = replies(model, asked)
    with open_run("edit_fact", config) as folder:
        folder.require_weights(model)
        perplexity_before = perplexity(model, held_out)
        edits = _ready(chosen, model, config)
        start = time.perf_counter()
        edit = edits([request])
        seconds = time.perf_counter() - start
        with edit.applied(model):
            after = replies(model, asked)
            perplexities = (perplexity_before, perplexity(model, held_out))
        rows = list(map(Row, asked, before, after))
        done = Done(edit, rows, edit.norms(model), perplexities, seconds)
        finish(config, folder, model, done, name_of(config, chosen))
    return folder.path


def settled(config: Config) -> Config:
    """`config` with all that it leaves out: the worked example's, as far as it fits.

    Raises:
        InputError: a prompt without a place for the subject or with several, or no relation where
            it is edited.
    """
    from kedit.errors import InputError

    example = _toy_example() if config.model == "toy" else EXAMPLE
    subject = config.subject.strip() or example.subject
    prompt = _template(config.prompt or example.prompt, subject, "--prompt")
    if prompt != example.prompt:
        example = replace(example, more=[], neighbours=[], relation="")
    relation = config.relation.strip()
    if config.perspective == "relation" and not relation:
        relation = example.relation
        if not relation:
            raise InputError("--perspective relation needs --relation, its name: location, say")
    names = dict.fromkeys(name.strip() for name in config.neighbours or example.neighbours)
    return replace(
        config,
        subject=subject,
        prompt=prompt,
        target=config.target.strip() or example.target,
        true=config.true.strip(),
        more=[_template(text, subject, "--more") for text in config.more or example.more],
        neighbours=[name for name in names if name not in ("", subject)],
        relation=relation,
    )


def _toy_example() -> Config:
    """A fact of the toy's world; its neighbours are other people."""
    from kedit.models import toy

    fact, target = (case := toy.cases()[0]).entity.fact, case.entity.target
    wordings = [template for template, _ in toy.WORLD[fact.relation][1]]
    return Config(
        subject=fact.subject,
        prompt=fact.template,
        target=target,
        more=[template for template in wordings if template != fact.template],
        neighbours=[person for person in toy.PEOPLE if person != fact.subject][:4],
        relation=fact.relation.name,
    )


def _template(text: str, subject: str, option: str) -> str:
    """`text` with one {}, for the subject."""
    from kedit.data.known import with_gap
    from kedit.errors import InputError, RecordError
    from kedit.spacing import without_end_blanks

    text = without_end_blanks(text)
    if text.count("{}") > 1:
        raise InputError(f"{option}: one {{}} is wanted, where the subject stands, got {text!r}")
    if "{}" in text:
        return text
    try:
        return with_gap(text, subject)
    except RecordError as error:
        raise InputError(
            f"{option}: {error}; put {{}} where the subject stands, or tell another --subject"
        ) from None


def _editor(config: Config) -> "Editor":
    """The editor with its settings for the model, and text and seed as they are told.

    Raises:
        InputError: an unknown one, or --text for one that reads no text.
    """
    from kedit.editors.registry import make_editor
    from kedit.errors import InputError

    chosen = make_editor(config.editor, config.model, config.perspective)
    told = {name: getattr(config, name) for name in ("text", "seed") if getattr(config, name)}
    if "text" in told and "text" not in vars(chosen):
        raise InputError(f"--text {config.text}: {config.editor} reads no text, leave it out")
    told = {name: value for name, value in told.items() if name in vars(chosen)}
    return replace(chosen, **told)  # pyright: ignore[reportArgumentType]


def _ready(chosen: "Editor", model: "HookedTransformer", config: Config) -> "Edits":
    """The editor on its model, with what it has to read."""
    chosen = trained_for_toy(chosen, model, config.model)
    return with_tokens(model, chosen, config.tokens_a_key).on(model)


if __name__ == "__main__":
    command(Config, run, exit_code=exit_code)
