"""From a fact's text to tokens, spans and answer ids; alone in knowing BOS.

An answer's tokens are those that it has behind its prompt, never those that it has alone: which
depend on what joins the two (`kedit.spacing`) and on the tokenizer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError, SpanError
from kedit.facts import CharSpan, Fact
from kedit.spacing import completed

TokenSpan = tuple[int, int]  # [start, end) in positions of the prompt, BOS counted
KeyPosition = Literal["subject_last", "object_last", "pair_last", "last"]
BOS_LABEL = "<bos>"
ROLES = ("bos", "subject", "relation", "rest", "last")


@dataclass(frozen=True)
class Prompt:
    """A fact's prompt as the model reads it, up to the token of the object that is asked for.

    Args:
        tokens: one row, with BOS if the model was trained with one, the given tokens last.
        labels: the text under each token.
        subject: positions of the subject's tokens.
        relation: positions of the relation's tokens, a span for each run of words.
        answer_ids: the object's tokens from the one on that is asked for.
        given: the object's tokens before that one, which end `tokens`.
    """

    tokens: Int[Tensor, " pos"]
    labels: tuple[str, ...]
    subject: TokenSpan
    relation: tuple[TokenSpan, ...]
    answer_ids: tuple[int, ...]
    given: tuple[int, ...] = ()

    @property
    def n_plain(self) -> int:
        """Tokens of the prompt without those of the object."""
        return len(self.tokens) - len(self.given)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """All of the object's tokens."""
        return self.given + self.answer_ids

    def positions(self, part: str) -> tuple[int, ...]:
        """All positions of "subject" or of "relation", ascending."""
        spans = (self.subject,) if part == "subject" else self.relation
        return tuple(sorted({pos for span in spans for pos in range(*span)}))

    @property
    def roles(self) -> tuple[str, ...]:
        """Of each position, which of ROLES it has; the prompt's last token is "last" whatever its
        words are, and words of both subject and relation are the subject's.
        """
        roles = ["rest"] * len(self.labels)
        for part in ("relation", "subject"):
            for pos in self.positions(part):
                roles[pos] = part
        if self.labels[0] == BOS_LABEL:
            roles[0] = "bos"
        roles[-1] = "last"
        return tuple(roles)


def encode(model: HookedTransformer, fact: Fact) -> Prompt:
    """Tokens, spans and answer of `fact` under the model's tokenizer.

    What is asked for is the first token by which the object can be told from `fact.rival`, and that
    is more than a bare blank (as tokenizers put before digits); the tokens before it are given.

    Raises:
        SpanError: subject or relation words cover no token (the tokenizer gives no offsets).
        InputError: the prompt is longer than the model's context.
    """
    answer, rival = answers_ids(model, fact.prompt, (fact.object, fact.rival or fact.object))
    spans = (fact.subject_span, *fact.relation_spans)
    tokens, labels, (subject, *relation) = _read(model, fact.prompt, spans)
    plain = Prompt(tokens, labels, subject, tuple(relation), answer)
    asked = with_given_tokens(
        model, plain, distinguishing_token(model, answer, rival if fact.rival else ())
    )
    require_room(model, fact.prompt, len(asked.tokens))
    return asked


def readable(model: HookedTransformer, facts: Iterable[Fact]) -> Iterator[Fact]:
    """Those that the model can read: within its context, of tokens that its embedding has."""
    for fact in facts:
        try:
            encode(model, fact)
        except InputError:
            continue
        yield fact


def encode_text(model: HookedTransformer, text: str, answer_ids: Sequence[int] = ()) -> Prompt:
    """Tokens of a prompt that is of no fact, and so has neither subject nor relation."""
    tokens, labels, _ = _read(model, text, ())
    return Prompt(tokens, labels, (0, 0), (), tuple(answer_ids))


def _read(
    model: HookedTransformer, text: str, spans: Sequence[CharSpan]
) -> tuple[Int[Tensor, " pos"], tuple[str, ...], list[TokenSpan]]:
    """Tokens of `text` with BOS, the text under each, and the tokens of spans of characters."""
    encoded = _encoded(model, text, return_offsets_mapping=True)
    offsets: list[CharSpan] = encoded["offset_mapping"]
    ids = _with_bos(model, encoded["input_ids"])
    first = len(ids) - len(offsets)
    labels = (BOS_LABEL,) * first + tuple(text[start:end] for start, end in offsets)
    found = [_token_span(offsets, span, text, first) for span in spans]
    return torch.tensor(ids, device=device(model)), labels, found


def with_given_tokens(model: HookedTransformer, prompt: Prompt, n: int) -> Prompt:
    """`prompt` with the object's first `n` tokens given, and the next one asked for."""
    given, plain = prompt.object_ids[:n], prompt.n_plain
    tokens = torch.cat([prompt.tokens[:plain], prompt.tokens.new_tensor(given)])
    labels = prompt.labels[:plain] + tuple(decoded(model, token) for token in given)
    asked = prompt.object_ids[n:]
    return replace(prompt, tokens=tokens, labels=labels, answer_ids=asked, given=given)


def distinguishing_token(
    model: HookedTransformer, answer: Sequence[int], rival: Sequence[int] = ()
) -> int:
    """Index of the first token of `answer` that tells it from `rival` and is no bare blank.

    The last one where no token does: where the rival begins with the whole answer.
    """
    last = len(answer) - 1
    first = first_difference(answer, rival) if rival else 0
    return next((n for n in range(first, last) if decoded(model, answer[n]).strip()), last)


def first_difference(answer: Sequence[int], rival: Sequence[int]) -> int:
    """Index of the first token of `answer` that `rival` does not share; the last one if none is."""
    both = zip(answer, rival, strict=False)
    shared = next((n for n, (one, other) in enumerate(both) if one != other), len(rival))
    return min(shared, len(answer) - 1)


def prompt_ids(model: HookedTransformer, text: str) -> tuple[int, ...]:
    """Token ids of `text` as a prompt: with BOS where the model was trained with one."""
    return _with_bos(model, plain_ids(model, text))


def require_room(model: HookedTransformer, text: str, n_tokens: int) -> None:
    """Raises InputError if the model's context is shorter than `n_tokens`, which `text` takes."""
    if n_tokens > model.cfg.n_ctx:
        raise InputError(f"{text[:60]!r}...: {n_tokens} tokens, the model reads {model.cfg.n_ctx}")


def answer_ids(model: HookedTransformer, prompt: str, answer: str) -> tuple[int, ...]:
    """Token ids of `answer` as it goes on from `prompt` (without BOS)."""
    return answers_ids(model, prompt, (answer,))[0]


def answers_ids(
    model: HookedTransformer, prompt: str, answers: Sequence[str]
) -> list[tuple[int, ...]]:
    """Token ids of each of `answers` as it goes on from `prompt`: one call for many answers.

    They are what the tokens of both together have behind those of the prompt. Where a token would
    reach over the border, the answer is encoded behind a new line instead, and the model reads the
    prompt as it does when it is asked to go on.
    """
    texts = [prompt, *(completed(prompt, answer) for answer in answers)]
    alone, *whole = _encoded(model, texts)["input_ids"]
    n = len(alone)
    return [
        tuple(ids[n:]) if ids[:n] == alone and len(ids) > n else _behind_a_line(model, answer)
        for answer, ids in zip(answers, whole, strict=True)
    ]


def _behind_a_line(model: HookedTransformer, text: str) -> tuple[int, ...]:
    line, both = (plain_ids(model, one) for one in ("\n", f"\n{text}"))
    return both[len(line) :] if both[: len(line)] == line else plain_ids(model, text)


def plain_ids(model: HookedTransformer, text: str) -> tuple[int, ...]:
    """Token ids of `text` alone: no blank before it, no BOS."""
    return tuple(_encoded(model, text)["input_ids"])


def decoded(model: HookedTransformer, *tokens: int) -> str:
    """The text of tokens, special ones as they are written."""
    return _tokenizer(model).decode(list(tokens))


def end_ids(model: HookedTransformer) -> tuple[int, ...]:
    """Tokens that end a text."""
    end = _tokenizer(model).eos_token_id
    return () if end is None else (end,)


def markup_ids(model: HookedTransformer) -> set[int]:
    """Tokens that were added to the tokenizer's vocabulary, unless they are blanks.

    "<start_of_image>" of Gemma 3, for one: the 270M, unedited, says dozens of them in a row.
    """
    added = _tokenizer(model).get_added_vocab()
    return {token for text, token in added.items() if text.strip()}


def bos_ids(model: HookedTransformer) -> list[int]:
    """[BOS] for a model trained to see one first (Gemma, Llama), [] for the others (GPT-2, GPT-J).

    `kedit.models.load.prepare` reads it off the tokenizer as the model's authors published it.
    """
    if not model.cfg.default_prepend_bos:
        return []
    bos = _tokenizer(model).bos_token_id
    return [] if bos is None else [bos]


def _with_bos(model: HookedTransformer, ids: Sequence[int]) -> tuple[int, ...]:
    """`ids` behind BOS; a text that spells BOS out itself, as chat formats do, gets no second."""
    bos = bos_ids(model)
    return tuple(ids) if bos and list(ids[:1]) == bos else (*bos, *ids)


def device(model: HookedTransformer) -> torch.device:
    """Where the model's tokens must lie: read off the weights, not off the configuration."""
    return model.embed.W_E.device


def _tokenizer(model: HookedTransformer) -> Any:
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer: load it with kedit.models.load.load")
    return model.tokenizer


def _encoded(model: HookedTransformer, text: str | list[str], **options: bool) -> Any:
    """What the tokenizer makes of a text, or of several; no special tokens are put around it.

    A tokenizer may have tokens that the embedding lacks: those that were added to it without
    resizing the model, and Gemma 3's for images. Such a model is right for all other texts, so that
    it is the text that is refused, not the model.

    Raises:
        InputError: a text has a token that the embedding has no row for.
    """
    encoded = _tokenizer(model)(text, add_special_tokens=False, **options)
    texts, rows = [text], [encoded["input_ids"]]
    if isinstance(text, list):
        texts, rows = text, encoded["input_ids"]
    for one, ids in zip(texts, rows, strict=True):
        last = max(ids, default=0)
        if last >= model.cfg.d_vocab:
            raise InputError(
                f"{one[:60]!r} has the token {decoded(model, last)!r}, number {last}, but the "
                f"model's embedding has {model.cfg.d_vocab} rows: after adding tokens call "
                "resize_token_embeddings(len(tokenizer)) of the Hugging Face model, and save it"
            )
    return encoded


def _token_span(offsets: list[CharSpan], span: CharSpan, text: str, first: int) -> TokenSpan:
    start, end = span
    # a token counts when it overlaps the span in at least one character; empty ones never do
    inside = [i for i, (a, b) in enumerate(offsets) if b > a and b > start and a < end]
    if not inside:
        raise SpanError(f"{text[start:end]!r} covers no token of {text!r}")
    return inside[0] + first, inside[-1] + 1 + first


def located(
    model: HookedTransformer, fact: Fact, where: KeyPosition, mentioned: str = "", before: str = ""
) -> tuple[tuple[int, ...], int]:
    """Token ids of a prompt, and the position whose key an edit takes.

    Args:
        where: the last token of the subject, of the object that the prompt spells out, of whichever
            of these stands later (the first that has seen the pair), or of the prompt.
        mentioned: that object.
        before: text that is put before the prompt.

    Raises:
        SpanError: the prompt does not spell out an object, or the words cover no token.
        InputError: the prompt is longer than the model's context.
    """
    text = before + fact.prompt
    encoded = _encoded(model, text, return_offsets_mapping=True)
    ids = _with_bos(model, encoded["input_ids"])
    first = len(ids) - len(encoded["input_ids"])
    require_room(model, text, len(ids))
    if where == "last":
        return ids, len(ids) - 1
    span = fact.subject_span
    if where == "object_last" or (where == "pair_last" and mentioned):
        # behind the subject if it stands on both sides, as in "... between {} and Manila is"
        start = fact.prompt.rfind(mentioned) if mentioned else -1
        if start < 0:
            raise SpanError(f"{fact.prompt!r} spells out no object: choose another key position")
        own = (start, start + len(mentioned))
        span = own if where == "object_last" else max(span, own)
    span = (span[0] + len(before), span[1] + len(before))
    return ids, _token_span(encoded["offset_mapping"], span, text, first)[1] - 1
