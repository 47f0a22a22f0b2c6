"""Options that several commands share: each function makes one, with its default and its help."""

from typing import Any

from simple_parsing import field as option

from experiments._forms import CASES_FORMS, FACTS_FORMS, TEXT_FORMS
from kedit.bounds import RULES
from kedit.models.packaged import PACKAGED

SITES = (*RULES["sites"].words,)  # pyright: ignore[reportAttributeAccessIssue]


def model() -> Any:
    return option(
        default="gemma-3-270m",
        help=f"The model: {', '.join(PACKAGED)}, toy, a TransformerLens name, a Hugging Face "
        "folder, or a .gguf file. BERT and T5 (toy-bert, toy-t5): edited by rome and joint only.",
    )


def device() -> Any:
    one = "The device: auto (CUDA if there is one), cpu, cuda or cuda:N."
    several = "A model that is too large for one GPU is divided among several by cuda:0,cuda:1."
    return option(default="auto", help=f"{one} {several}")


def dtype(more: str = "") -> Any:
    text = "The type of the model's weights: float32, float64, or on CUDA bfloat16 or float16."
    return option(default="float32", help=f"{text} {more}".strip())


def seed(drawn: str) -> Any:
    return option(default=0, help=f"The seed of {drawn}.")


def unused(default: str | int, why: str) -> Any:
    """An option that every command accepts and this command does not use."""
    return option(default=default, help=f"Accepted by every command; this one {why}.")


def out(experiment: str) -> Any:
    return option(
        default="", help=f"The folder of the run (default: results/{experiment}/MODEL-HASH)."
    )


def facts() -> Any:
    return option(default="auto", help=FACTS_FORMS)


def relations(default: str = "") -> Any:
    return option(
        default=default,
        help="Use only facts of these relations: comma-separated ids or names; or a number N: the "
        "N relations with the most subjects. Empty: all relations.",
    )


def metric(more: str = "") -> Any:
    text = "The score that tables and figures show. All three are measured."
    return option(default="prob", help=f"{text} {more}".strip())


def sites(default: tuple[str, ...] = SITES) -> Any:
    return option(
        default_factory=lambda: list(default), help=f"What is restored: any of {' '.join(SITES)}."
    )


def cases(more: str = "") -> Any:
    return option(default="auto", help=f"{CASES_FORMS} {more}".strip())


def n_cases(default: int) -> Any:
    text = "The number of cases, spread over as many relations as possible; 0: all cases."
    return option(default=default, help=text)


def skip() -> Any:
    text = "Skip this many cases, the first drawn ones, such as those that settings were tuned on."
    return option(default=0, help=text)


def text(empty: str = "the text that comes with kedit (for the toy: self)") -> Any:
    return option(
        default="",
        help=f"The text whose key statistics (C) edits spare: {TEXT_FORMS} {empty}.",
    )


def tokens_per_dim() -> Any:
    return option(
        default=4,
        help="The number of tokens of --text per dimension of a key, for editors whose n_tokens is "
        "not set.",
    )


def held_out(use: str = "The text on which the perplexity after each edit is measured") -> Any:
    return option(
        default="",
        help=f"{use}: {TEXT_FORMS} the held-out part of kedit's text (for the toy: self).",
    )


def chunks(default: int = 2) -> Any:
    return option(default=default, help="The number of chunks of the held-out text.")


def chunk_tokens() -> Any:
    text = "The number of tokens of each chunk. Shorter chunks are read faster."
    return option(default=128, help=text)


def prompts_per_kind(default: int = 0) -> Any:
    return option(
        default=default,
        help="The most test prompts of each kind per case (scoring takes time); 0: all prompts.",
    )
