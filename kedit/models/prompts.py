"""Turns a fact's text into tokens, token spans and answer ids.

This is the only module that decides about BOS. The tokens of an answer are always those that it has
after its prompt, which can differ from its tokens alone: they depend on the blank that joins the
two (`kedit.spacing`) and on the tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError, SpanError
from kedit.facts import CharSpan, Fact
from kedit.models.masked import AnyModel, require_decoder, token_embedding
from kedit.spacing import completed

TokenSpan = tuple[int, int]  # [start, end) in positions of the prompt, BOS included
KeyPosition = Literal["subject_last", "object_last", "pair_last", "last"]
BOS_LABEL = "<bos>"
ROLES = ("bos", "subject", "relation", "rest", "last")


@dataclass(frozen=True)
class Prompt:
    """A fact's prompt as tokens, up to the token of the object that the model has to predict.

    The first tokens of the object can be *given*: they end the prompt, and the next token is the
    one to predict.

    Args:
        tokens: the prompt's tokens, with BOS if the model was trained with it, then `given`.
        labels: the text of each token.
        subject: positions of the subject's tokens.
        relation: positions of the relation's tokens, one span for each run of words.
        answer_ids: the object's other tokens, from the one to predict on.
        given: the object's tokens before that one.
    """

    tokens: Int[Tensor, " pos"]
    labels: tuple[str, ...]
    subject: TokenSpan
    relation: tuple[TokenSpan, ...]
    answer_ids: tuple[int, ...]
    given: tuple[int, ...] = ()

    @property
    def n_plain(self) -> int:
        """The number of tokens without those of the object."""
        return len(self.tokens) - len(self.given)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """All tokens of the object."""
        return self.given + self.answer_ids

    def positions(self, part: str) -> tuple[int, ...]:
        """Returns all positions of "subject" or of "relation", in ascending order."""
        spans = (self.subject,) if part == "subject" else self.relation
        return tuple(sorted({pos for span in spans for pos in range(*span)}))

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each position, one of ROLES.

        The last token is always "last", and a token of both subject and relation is "subject".
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
    """Encodes `fact` with the model's tokenizer: its tokens, spans and answer.

    The token to predict is the first token of the object that distinguishes it from `fact.rival`
    and is more than a bare blank (which some tokenizers put before digits). The tokens before it
    are given.

    Raises:
        SpanError: subject or relation words cover no token (the tokenizer gives no offsets).
        InputError: the prompt is longer than the model's context, or has a token that the model's
            embedding lacks.
    """
    answer, rival = answers_ids(model, fact.prompt, (fact.object, fact.rival or fact.object))
    spans = (fact.subject_span, *fact.relation_spans)
    tokens, labels, (subject, *relation) = _read(model, fact.prompt, spans)
    plain = Prompt(tokens, labels, subject, tuple(relation), answer)
    prompt = with_given_tokens(
        model, plain, distinguishing_token(model, answer, rival if fact.rival else ())
    )
    require_room(model, fact.prompt, len(prompt.tokens))
    return prompt


def encode_text(model: HookedTransformer, text: str, answer_ids: Sequence[int] = ()) -> Prompt:
    """Encodes any text as a prompt without subject and relation."""
    tokens, labels, _ = _read(model, text, ())
    return Prompt(tokens, labels, (0, 0), (), tuple(answer_ids))


def _read(
    model: HookedTransformer, text: str, spans: Sequence[CharSpan]
) -> tuple[Int[Tensor, " pos"], tuple[str, ...], list[TokenSpan]]:
    """The tokens of `text` with BOS, the text of each token, and the token spans of char spans."""
    encoded = _encoded(model, text, return_offsets_mapping=True)
    offsets: list[CharSpan] = encoded["offset_mapping"]
    ids = _with_bos(model, encoded["input_ids"])
    first = len(ids) - len(offsets)
    labels = (BOS_LABEL,) * first + tuple(text[start:end] for start, end in offsets)
    found = [token_span(offsets, span, text, first) for span in spans]
    return torch.tensor(ids, device=device(model)), labels, found


def with_given_tokens(model: HookedTransformer, prompt: Prompt, n: int) -> Prompt:
    """Returns `prompt` with the object's first `n` tokens given and the next one to predict."""
    given, plain = prompt.object_ids[:n], prompt.n_plain
    tokens = torch.cat([prompt.tokens[:plain], prompt.tokens.new_tensor(given)])
    labels = prompt.labels[:plain] + tuple(decoded(model, token) for token in given)
    rest = prompt.object_ids[n:]
    return replace(prompt, tokens=tokens, labels=labels, answer_ids=rest, given=given)


def distinguishing_token(model: AnyModel, answer: Sequence[int], rival: Sequence[int] = ()) -> int:
    """Returns the index of the first token of `answer` that distinguishes it from `rival`.

    Tokens that are bare blanks are skipped. If no token distinguishes them, because the rival
    begins with the whole answer, it is the index of the last token.
    """
    last = len(answer) - 1
    first = first_difference(answer, rival) if rival else 0
    return next((n for n in range(first, last) if decoded(model, answer[n]).strip()), last)


def first_difference(answer: Sequence[int], rival: Sequence[int]) -> int:
    """Returns the index of the first token of `answer` that differs from `rival`, else the last."""
    both = zip(answer, rival, strict=False)
    shared = next((n for n, (a, b) in enumerate(both) if a != b), len(rival))
    return min(shared, len(answer) - 1)


def prompt_ids(model: HookedTransformer, text: str) -> tuple[int, ...]:
    """Returns the token ids of `text` as a prompt: with BOS if the model was trained with it."""
    return _with_bos(model, plain_ids(model, text))


def require_room(model: AnyModel, text: str, n_tokens: int) -> None:
    """Checks that `text`, which has `n_tokens` tokens, fits into the model's context.

    Raises:
        InputError: it does not.
    """
    if n_tokens > model.cfg.n_ctx:
        raise InputError(
            f"{text[:60]!r}...: {n_tokens} tokens, the model reads {model.cfg.n_ctx} at most"
        )


def answer_ids(model: HookedTransformer, prompt: str, answer: str) -> tuple[int, ...]:
    """Returns the token ids of `answer` as the continuation of `prompt` (without BOS)."""
    return answers_ids(model, prompt, (answer,))[0]


def answers_ids(
    model: HookedTransformer, prompt: str, answers: Sequence[str]
) -> list[tuple[int, ...]]:
    """Returns the token ids of each of `answers` as the continuation of `prompt`.

    Prompt and answer are encoded together, and the answer's tokens are those after the prompt's.
    If a token reaches over the border between the two, the answer is encoded after a new line
    instead, so that the prompt keeps the tokens that it has alone.
    """
    texts = [prompt, *(completed(prompt, answer) for answer in answers)]
    alone, *whole = _encoded(model, texts)["input_ids"]
    n = len(alone)
    return [
        tuple(ids[n:]) if ids[:n] == alone and len(ids) > n else _after_new_line(model, answer)
        for answer, ids in zip(answers, whole, strict=True)
    ]


def _after_new_line(model: HookedTransformer, text: str) -> tuple[int, ...]:
    """The token ids that `text` has after a new line, without those of the new line."""
    line, both = (plain_ids(model, lines) for lines in ("\n", f"\n{text}"))
    return both[len(line) :] if both[: len(line)] == line else plain_ids(model, text)


def plain_ids(model: AnyModel, text: str) -> tuple[int, ...]:
    """Returns the token ids of `text` alone: without BOS, and without a blank before it."""
    return tuple(_encoded(model, text)["input_ids"])


def decoded(model: AnyModel, *tokens: int) -> str:
    """Returns the text of tokens, including special tokens."""
    return tokenizer_of(model).decode(list(tokens))


def end_ids(model: HookedTransformer) -> tuple[int, ...]:
    """Returns the tokens that end a text."""
    end = tokenizer_of(model).eos_token_id
    return () if end is None else (end,)


def markup_ids(model: HookedTransformer) -> set[int]:
    """Returns the tokens that were added to the tokenizer's vocabulary, except for blanks.

    An example is "<start_of_image>" of Gemma 3: the unedited 270M model generates dozens of them in
    a row.
    """
    added = tokenizer_of(model).get_added_vocab()
    return {token for text, token in added.items() if text.strip()}


def bos_ids(model: AnyModel) -> list[int]:
    """Returns [BOS] if the model was trained with BOS (Gemma, Llama), else [] (GPT-2, GPT-J).

    `kedit.models.load.prepare` finds this out from the tokenizer that the authors published.
    """
    if not model.cfg.default_prepend_bos:
        return []
    bos = tokenizer_of(model).bos_token_id
    return [] if bos is None else [bos]


def _with_bos(model: HookedTransformer, ids: Sequence[int]) -> tuple[int, ...]:
    """`ids` after BOS, unless they begin with BOS already, as texts in chat formats do.

    Raises:
        InputError: the model is BERT or T5, for which texts are encoded in another way.
    """
    require_decoder(model, "this")
    bos = bos_ids(model)
    return tuple(ids) if bos and list(ids[:1]) == bos else (*bos, *ids)


def device(model: AnyModel) -> torch.device:
    """Returns the device of the model's weights, which the configuration may not know."""
    return token_embedding(model).W_E.device


def tokenizer_of(model: AnyModel) -> Any:
    """Returns the model's tokenizer.

    Raises:
        InputError: it has none.
    """
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer: load it with kedit.load")
    return model.tokenizer


def _encoded(model: AnyModel, text: str | list[str], **options: bool) -> Any:
    """The tokenizer's output for one text or several, without special tokens around them.

    A tokenizer may have tokens that the embedding lacks: tokens that were added without resizing
    the model, and Gemma 3's tokens for images. All other texts are read correctly, so only a text
    with such a token is refused, not the model.

    Raises:
        InputError: a text has a token without a row in the embedding.
    """
    encoded = tokenizer_of(model)(text, add_special_tokens=False, **options)
    texts, rows = (
        (text, encoded["input_ids"]) if isinstance(text, list) else ([text], [encoded["input_ids"]])
    )
    for string, ids in zip(texts, rows, strict=True):
        require_rows(model, string, ids)
    return encoded


def require_rows(model: AnyModel, text: str, ids: Sequence[int]) -> None:
    """Checks that the model's embedding has a row for each token of `text`.

    Raises:
        InputError: it has not.
    """
    last = max(ids, default=0)
    if last >= model.cfg.d_vocab:
        raise InputError(
            f"{text[:60]!r} has the token {decoded(model, last)!r}, number {last}, but the "
            f"model's embedding has {model.cfg.d_vocab} rows: after adding tokens call "
            "resize_token_embeddings(len(tokenizer)) of the Hugging Face model, and save it"
        )


def token_span(offsets: list[CharSpan], span: CharSpan, text: str, first: int) -> TokenSpan:
    """Returns the token span of a character span.

    Args:
        offsets: the character span of each token.
        text: the text that was encoded, for the error.
        first: the position of the first of these tokens.

    Raises:
        SpanError: the character span covers no token.
    """
    start, end = span
    # a token counts if it overlaps the span in at least one character; empty tokens never do
    inside = [i for i, (a, b) in enumerate(offsets) if b > a and b > start and a < end]
    if not inside:
        raise SpanError(f"{text[start:end]!r} covers no token of {text!r}")
    return inside[0] + first, inside[-1] + 1 + first


def located(
    model: HookedTransformer, fact: Fact, where: KeyPosition, mentioned: str = "", before: str = ""
) -> tuple[tuple[int, ...], int]:
    """Returns the token ids of a fact's prompt, and the position whose key an edit uses.

    Args:
        where: the position: the last token of the subject, of the object that the prompt spells
            out, of the later one of these two (the first token that can attend to both), or of the
            prompt.
        mentioned: the object that the prompt spells out, "" for none.
        before: text before the prompt.

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
        # the last occurrence: after the subject if it occurs on both sides of the subject
        start = fact.prompt.rfind(mentioned) if mentioned else -1
        if start < 0:
            raise SpanError(f"{fact.prompt!r} spells out no object: choose another key position")
        object_span = (start, start + len(mentioned))
        span = object_span if where == "object_last" else max(span, object_span)
    span = (span[0] + len(before), span[1] + len(before))
    return ids, token_span(encoded["offset_mapping"], span, text, first)[1] - 1
