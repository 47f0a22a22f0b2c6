"""Rewrites a fact for a masked model: the object's tokens are replaced by masks.

One rule holds for BERT and T5. The fact is written out with its object and its ending, as in "The
capital of Japan is Tokyo.", and encoded. Then the object's tokens are replaced: in BERT by as many
[MASK] tokens, in T5 by one sentinel (<extra_id_0>), after which the decoder has to say the object.
So all other tokens are those of the whole sentence, and only the object is hidden.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from transformer_lens import HookedEncoder, HookedEncoderDecoder

from kedit.errors import InputError, SpanError
from kedit.facts import MASK, CharSpan, Fact
from kedit.models.masked import AnyModel, Masked, is_masked
from kedit.models.prompts import (
    Prompt,
    decoded,
    device,
    distinguishing_token,
    encode,
    require_room,
    require_rows,
    token_span,
    tokenizer_of,
    with_given_tokens,
)
from kedit.spacing import completed

FIRST_SENTINEL = "<extra_id_0>"


@dataclass(frozen=True)
class MaskedPrompt(Prompt):
    """A fact's sentence with its object masked, up to the object's token that is to be predicted.

    `tokens` are those of BERT or of T5's encoder, special tokens included. In BERT, tokens of the
    object that are given stand in the place of their masks; in T5 they are in the decoder, whose
    tokens come after the encoder's in `labels`.

    Args:
        masks: positions of the object's masks, in BERT one for each of its tokens, also for those
            that are given; in T5 the position of the sentinel.
    """

    masks: tuple[int, ...] = ()

    @property
    def n_plain(self) -> int:
        """The number of tokens, none of which are the object's."""
        return len(self.tokens)

    @property
    def read_at(self) -> int:
        """The mask of the token to predict; in T5 the sentinel."""
        return self.masks[min(len(self.given), len(self.masks) - 1)]

    @property
    def answer_at(self) -> tuple[int, ...]:
        """The positions, in `labels`, of `read_at` and of the last token of T5's decoder."""
        if len(self.labels) == len(self.tokens):
            return (self.read_at,)
        return (self.read_at, len(self.labels) - 1)


@dataclass(frozen=True)
class Sentence:
    """A fact written out with its object, as tokens.

    Args:
        text: the sentence.
        ids: its tokens, special tokens included.
        offsets: the character span of each token; empty for special tokens.
        object: the token span of the object.
    """

    text: str
    ids: list[int]
    offsets: list[CharSpan]
    object: tuple[int, int]

    @classmethod
    def of(cls, model: Masked, prompt: str, answer: str, ending: str) -> "Sentence":
        """Encodes a prompt with its answer and ending.

        Raises:
            SpanError: the answer covers no token, or a token reaches over one of its ends.
            InputError: a token has no row in the model's embedding.
        """
        before = completed(prompt, "")
        text = f"{before}{answer}{ending}"
        encoded = tokenizer_of(model)(text, return_offsets_mapping=True)
        ids: list[int] = list(encoded["input_ids"])
        offsets: list[CharSpan] = [tuple(pair) for pair in encoded["offset_mapping"]]
        require_rows(model, text, ids)
        span = (len(before), len(before) + len(answer))
        start, end = token_span(offsets, span, text, 0)
        # a sentencepiece token begins with the blank before its word
        if text[offsets[start][0] : span[0]].strip() or offsets[end - 1][1] > span[1]:
            raise SpanError(f"a token of {text!r} reaches over an end of {answer!r}")
        return cls(text, ids, offsets, (start, end))


def fact_prompt(model: AnyModel, fact: Fact) -> Prompt:
    """Encodes `fact` for a model of any kind: up to its object, or with its object masked.

    Raises:
        InputError: see `prompts.encode` and `encode_masked`.
    """
    return encode_masked(model, fact) if is_masked(model) else encode(model, fact)


def readable(model: AnyModel, facts: Iterable[Fact]) -> Iterator[Fact]:
    """Yields the facts that the model can read: those that `fact_prompt` does not refuse."""
    for fact in facts:
        try:
            fact_prompt(model, fact)
        except InputError:
            continue
        yield fact


def encode_masked(model: Masked, fact: Fact) -> MaskedPrompt:
    """Encodes `fact` with its object masked; the masked counterpart of `prompts.encode`.

    Raises:
        SpanError: subject, relation words or object cover no token, or a token reaches over an end
            of the object.
        InputError: the sentence is longer than the model's context, or has a token that the model's
            embedding lacks.
    """
    sentence = Sentence.of(model, fact.prompt, fact.object, fact.ending)
    subject, *relation = (
        token_span(sentence.offsets, span, sentence.text, 0)
        for span in (fact.subject_span, *fact.relation_spans)
    )
    tokens, labels, told, masks = _hidden(model, sentence)
    plain = MaskedPrompt(
        torch.tensor(tokens, device=device(model)),
        labels, subject, tuple(relation), told, masks=masks,
    )  # fmt: skip
    rival = object_ids(model, replace(fact, object=fact.rival)) if fact.rival else ()
    prompt = with_given(model, plain, distinguishing_token(model, told, rival))
    require_room(model, fact.prompt, len(prompt.tokens))
    return prompt


def encode_masked_text(model: Masked, text: str, answer: str = "") -> MaskedPrompt:
    """Encodes any text with "[MASK]" in the place of `answer`, without subject and relation.

    Without an answer there is a single mask.

    Raises:
        InputError: the text does not have exactly one "[MASK]".
        SpanError: see `encode_masked`.
    """
    if text.count(MASK) != 1:
        raise InputError(f"{text!r}: a masked model needs {MASK} once, in the place of the answer")
    before, after = text.split(MASK)
    hidden = FIRST_SENTINEL if isinstance(model, HookedEncoderDecoder) else MASK
    sentence = Sentence.of(model, before.rstrip(), answer or hidden, after)
    tokens, labels, told, masks = _hidden(model, sentence)
    plain = MaskedPrompt(
        torch.tensor(tokens, device=device(model)),
        labels, (0, 0), (), told if answer else (), masks=masks,
    )  # fmt: skip
    return with_given(model, plain, 0)


def with_given(model: Masked, prompt: MaskedPrompt, n: int) -> MaskedPrompt:
    """Returns `prompt` with the object's first `n` tokens given and the next one to predict."""
    given, rest = prompt.object_ids[:n], prompt.object_ids[n:]
    tokens, labels = prompt.tokens, prompt.labels
    if isinstance(model, HookedEncoder):
        filled = [*given, *[mask_id(model)] * (len(prompt.masks) - n)]
        tokens = tokens.clone()
        tokens[list(prompt.masks)] = tokens.new_tensor(filled)
        labels = _with_labels(model, labels, prompt.masks, filled)
    else:
        labels = labels[: len(tokens)]
        labels += tuple(decoded(model, token) for token in (*_decoder_start(model), *given))
    return replace(prompt, tokens=tokens, labels=labels, answer_ids=rest, given=given)


def given_first(model: AnyModel, prompt: Prompt, n: int) -> Prompt:
    """Returns a prompt for a model of any kind with the object's first `n` tokens given."""
    if is_masked(model):
        assert isinstance(prompt, MaskedPrompt)
        return with_given(model, prompt, n)
    return with_given_tokens(model, prompt, n)


def decoder_ids(model: Masked, prompt: MaskedPrompt) -> tuple[int, ...]:
    """Returns the tokens of T5's decoder: start, sentinel, and the given tokens; () for BERT."""
    if isinstance(model, HookedEncoder):
        return ()
    return (*_decoder_start(model), *prompt.given)


def object_ids(model: Masked, fact: Fact) -> tuple[int, ...]:
    """Returns the object's tokens in the fact's sentence.

    Raises:
        SpanError: see `encode_masked`.
    """
    sentence = Sentence.of(model, fact.prompt, fact.object, fact.ending)
    start, end = sentence.object
    return tuple(sentence.ids[start:end])


def mask_id(model: HookedEncoder) -> int:
    """Returns BERT's [MASK]."""
    return tokenizer_of(model).mask_token_id


def masks_for(model: Masked, n_tokens: int) -> list[int]:
    """Returns the tokens that hide an object of `n_tokens` tokens: [MASK]s, or T5's sentinel."""
    return [mask_id(model)] * n_tokens if isinstance(model, HookedEncoder) else [_sentinel(model)]


def _hidden(
    model: Masked, sentence: Sentence
) -> tuple[list[int], tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """A sentence's tokens and labels with the object masked, the object's tokens, and its masks."""
    start, end = sentence.object
    told = tuple(sentence.ids[start:end])
    labels = tuple(
        sentence.text[a:b] if b > a else decoded(model, token)
        for token, (a, b) in zip(sentence.ids, sentence.offsets, strict=True)
    )
    masks = masks_for(model, len(told))
    shown = tuple(decoded(model, token) for token in masks)
    return (
        sentence.ids[:start] + masks + sentence.ids[end:],
        labels[:start] + shown + labels[end:],
        told,
        tuple(range(start, start + len(masks))),
    )


def _with_labels(
    model: Masked, labels: tuple[str, ...], places: Sequence[int], tokens: Sequence[int]
) -> tuple[str, ...]:
    shown = list(labels)
    for place, token in zip(places, tokens, strict=True):
        shown[place] = decoded(model, token)
    return tuple(shown)


def _decoder_start(model: HookedEncoderDecoder) -> tuple[int, int]:
    start = model.cfg.decoder_start_token_id
    return (tokenizer_of(model).pad_token_id if start is None else start), _sentinel(model)


def _sentinel(model: HookedEncoderDecoder) -> int:
    sentinel = tokenizer_of(model).convert_tokens_to_ids(FIRST_SENTINEL)
    if sentinel is None or sentinel == tokenizer_of(model).unk_token_id:
        raise InputError(f"the tokenizer has no {FIRST_SENTINEL}, which T5 needs to mask an object")
    return sentinel
