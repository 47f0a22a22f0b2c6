"""Options that several commands have: each is said once here, with its default and its help."""

from typing import Any

from simple_parsing import field as option

FACTS_FORMS = (
    "builtin, toy, or a file: facts of your own (JSON Lines, CSV), known_1000.json, CounterFact, a "
    "relation file of evandez/relations ... (auto: the toy's own for the toy, else builtin)."
)
CASES_FORMS = (
    "builtin, toy, or a file: facts of your own with a target (JSON Lines, CSV), rake.jsonl as "
    "experiments.build_rake makes it, CounterFact, KnowEdit, EasyEdit's form, MQuAKE, zsRE ... "
    "(auto: the toy's own for the toy, else what build_rake made, else builtin)."
)


def model() -> Any:
    return option(
        default="gemma-3-270m",
        help="gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf "
        "file.",
    )


def device() -> Any:
    return option(default="auto", help="auto, cpu, cuda, cuda:1 ...")


def dtype() -> Any:
    return option(default="float32", help="Of the weights; on CUDA also bfloat16 or float16.")


def out(experiment: str) -> Any:
    return option(default="", help=f"The run's folder (default: results/{experiment}/MODEL-HASH).")


def seed(drawn: str) -> Any:
    return option(default=0, help=f"Of {drawn}.")


def facts() -> Any:
    return option(default="auto", help=FACTS_FORMS)


def cases(more: str = "") -> Any:
    return option(default="auto", help=f"{CASES_FORMS} {more}".strip())


def n_cases(default: int) -> Any:
    return option(
        default=default, help="How many cases, over as many relations as there are; 0 for all."
    )


def skip() -> Any:
    return option(
        default=0, help="Leave out so many cases before: those that settings were tuned on."
    )


def text() -> Any:
    return option(
        default="",
        help="Text whose statistics edits are to spare: a file, hf:NAME, self for what the model "
        'says by seed, or "" for kedit\'s text (the toy: self).',
    )


def tokens_per_dim() -> Any:
    return option(
        default=4,
        help="Tokens of that text for each number of a key, where an editor has not been told "
        "n_tokens.",
    )


def held_out() -> Any:
    return option(
        default="",
        help='Text whose perplexity must not blow up: a file, hf:NAME, self, or "" for the part '
        "of kedit's text that is held out (the toy: self).",
    )


def chunks(default: int = 2) -> Any:
    return option(default=default, help="Of that text.")


def chunk_tokens() -> Any:
    return option(default=128, help="Tokens of a chunk: fewer are read sooner.")


def prompts_per_kind(default: int = 0) -> Any:
    return option(
        default=default,
        help="Of each kind a case is tested with, at most so many (scoring takes time); 0 for all.",
    )
