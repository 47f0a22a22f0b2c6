"""Tokens, spans and answers, under a tokenizer with BOS and under one without."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformer_lens import HookedTransformer
from transformers import GPT2Config, PreTrainedTokenizerFast

from kedit.errors import InputError, SpanError
from kedit.facts import Fact, Relation
from kedit.models import toy as toy_module
from kedit.models.hugging_face import hooked
from kedit.models.load import prepare, quiet
from kedit.models.prompts import (
    Prompt,
    TokenSpan,
    answer_ids,
    bos_ids,
    encode,
    located,
    plain_ids,
    prompt_ids,
)
from kedit.spacing import without_end_blanks
from tests.conftest import GPT_2, FamilyOf, random_module

RELATION = Relation("P0", "likeness")
NAMES = [
    "Ada Alder",
    "I",
    "São Paulo",
    "Beyoncé",
    "東京",
    "🦆",
    "👩‍🚀 Ada",
    "Côte d'Ivoire",
    "O'Neill-Öz",
]
WITH_AND_WITHOUT_BOS = pytest.mark.parametrize("reader", ["toy", "bosless_gpt2"])


def read(model: HookedTransformer, prompt: Prompt, span: TokenSpan) -> str:
    return text_of(model, prompt.tokens[slice(*span)].tolist())


def text_of(model: HookedTransformer, ids: Sequence[int]) -> str:
    assert model.tokenizer is not None
    return str(model.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


@WITH_AND_WITHOUT_BOS
@pytest.mark.parametrize("template", ["{} was born in", "Where was {} born? In", "The home of {}"])
@pytest.mark.parametrize("name", NAMES)
def test_spans_cover_their_words_and_no_word_more(
    request: pytest.FixtureRequest, reader: str, name: str, template: str
):
    model = request.getfixturevalue(reader)
    fact = Fact(name, RELATION, "Rome", template)
    prompt = encode(model, fact)
    assert read(model, prompt, prompt.subject).strip() == name
    found = [read(model, prompt, span).strip() for span in prompt.relation]
    assert found == [fact.prompt[start:end] for start, end in fact.relation_spans]
    assert read(model, prompt, (len(bos_ids(model)), prompt.n_plain)) == fact.prompt
    assert len(prompt.labels) == len(prompt.tokens)


def test_bos_opens_the_prompt_of_the_model_that_was_trained_with_it_alone(
    toy: HookedTransformer, bosless_gpt2: HookedTransformer
):
    fact = Fact("Ada Alder", RELATION, "Rome", "{} was born in")
    with_bos, without = encode(toy, fact), encode(bosless_gpt2, fact)
    (bos,) = bos_ids(toy)
    assert with_bos.tokens.tolist().count(bos) == 1
    assert with_bos.tokens[0] == bos
    assert (with_bos.labels[0], with_bos.labels[1][:1]) == ("<bos>", "A")
    assert (with_bos.subject[0], without.subject[0]) == (1, 0)
    assert bos_ids(bosless_gpt2) == []
    assert text_of(bosless_gpt2, without.tokens[: without.n_plain].tolist()) == fact.prompt
    labels = (one.labels[start : one.n_plain] for one, start in ((with_bos, 1), (without, 0)))
    assert {"".join(own) for own in labels} == {fact.prompt}


@WITH_AND_WITHOUT_BOS
def test_a_subject_inside_another_word_of_the_template_is_not_mistaken(
    request: pytest.FixtureRequest, reader: str
):
    model = request.getfixturevalue(reader)
    prompt = encode(model, Fact("art", RELATION, "x", "The party of heart and {} is art"))
    before = read(model, prompt, (len(bos_ids(model)), prompt.subject[0]))
    assert before.rstrip() == "The party of heart and"
    assert read(model, prompt, prompt.subject).lstrip() == "art"


@WITH_AND_WITHOUT_BOS
def test_relation_words_on_both_sides_have_a_span_each(request: pytest.FixtureRequest, reader: str):
    model = request.getfixturevalue(reader)
    fact = Fact("Ada Alder", RELATION, "x", "The birthplace of {} is in", ("birthplace of", "is"))
    prompt = encode(model, fact)
    assert [read(model, prompt, span).strip() for span in prompt.relation] == [
        "birthplace of",
        "is",
    ]
    positions = prompt.positions("relation")
    assert positions == tuple(sorted({p for span in prompt.relation for p in range(*span)}))
    assert not set(positions) & set(prompt.positions("subject"))
    assert prompt.positions("subject") == tuple(range(*prompt.subject))


@WITH_AND_WITHOUT_BOS
def test_words_that_share_a_token_are_counted_once(request: pytest.FixtureRequest, reader: str):
    model = request.getfixturevalue(reader)
    fact = Fact("Ada", RELATION, "x", "The birthplace of {} is", ("birth", "place"))
    positions = encode(model, fact).positions("relation")
    assert len(positions) == len(set(positions))
    assert list(positions) == sorted(positions)


@WITH_AND_WITHOUT_BOS
@pytest.mark.parametrize("text", ["Danish", "Paris", "São Paulo", "東京"])
def test_an_answer_follows_one_blank_and_no_bos(
    request: pytest.FixtureRequest, reader: str, text: str
):
    model = request.getfixturevalue(reader)
    ids = answer_ids(model, "Ada is", text)
    assert text_of(model, ids) == f" {text}"
    assert model.tokenizer.bos_token_id not in ids
    assert encode(model, Fact("Ada", RELATION, text, "{} is")).object_ids == ids
    plain = plain_ids(model, text)
    assert text_of(model, plain) == text


def test_a_prompt_that_fits_exactly_is_read_and_one_token_more_is_refused(toy: HookedTransformer):
    def fact(n_words: int) -> Fact:
        return Fact("Ada", RELATION, "x", "{}" + " is" * n_words)

    shortest = len(encode(toy, fact(1)).tokens)
    room = toy.cfg.n_ctx - shortest + 1
    assert len(encode(toy, fact(room)).tokens) == toy.cfg.n_ctx == 64
    with pytest.raises(InputError, match=r"'Ada is is .*'\.\.\.: 65 tokens, the model reads 64"):
        encode(toy, fact(room + 1))


def test_words_without_a_token_are_refused(family: FamilyOf):
    """A tokenizer that drops a character, as some drop control characters or accents."""
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "[EOS]": 1, "is": 2}, unk_token="[UNK]"))
    core.normalizer = normalizers.Replace("☃", "")
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    with quiet():
        model = hooked(family("gpt2").hf, torch.float32)
    prepare(model, PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[EOS]"))
    with pytest.raises(SpanError, match="'☃☃' covers no token of '☃☃ is'"):
        encode(model, Fact("☃☃", RELATION, "x", "{} is"))
    assert encode(model, Fact("☃ Ada", RELATION, "x", "{} is")).subject == (0, 1)


@pytest.mark.parametrize("special", [False, True])
def test_a_token_that_the_embedding_lacks_costs_its_own_texts_only(special: bool):
    """As where tokens were added without resizing; and official Gemma 3 has one, for images."""
    words = toy_module.tokenizer()
    n = len(words)
    with quiet():
        sizes: dict[str, Any] = GPT_2 | {"vocab_size": n}
        model = hooked(random_module(GPT2Config(**sizes)), torch.float32)
    words.add_tokens(["Arles"], special_tokens=special)
    prepare(model, words)
    good = Fact("Ada", RELATION, "Rome", "The home of {} is")
    assert max(encode(model, good).tokens) < n
    wanted = rf"has the token 'Arles', number {n}, but .* {n} rows: .*resize_token_embeddings"
    for bad in (replace(good, subject="Arles"), replace(good, object="Arles")):
        with pytest.raises(InputError, match=wanted):
            encode(model, bad)
    for reading in (plain_ids, prompt_ids):
        with pytest.raises(InputError, match=wanted):
            reading(model, "To Arles")
    with pytest.raises(InputError, match=wanted):
        located(model, replace(good, template="Arles is the home of {}"), "last")


def test_a_model_without_a_tokenizer_is_refused(toy: HookedTransformer):
    bare = HookedTransformer.__new__(HookedTransformer)
    torch.nn.Module.__init__(bare)
    bare.cfg, bare.tokenizer = toy.cfg, None
    with pytest.raises(InputError, match="the model has no tokenizer: load it with"):
        encode(bare, toy_module.facts()[0])


word = st.text(min_size=1, max_size=4).filter(lambda text: text.strip() and "<" not in text)
subject_ = word.map(str.strip)


@settings(max_examples=150)
@given(name=subject_, before=st.just("") | word, after=st.just("") | word, blank=st.booleans())
def test_the_tokens_of_any_span_hold_its_words(
    toy: HookedTransformer,
    bosless_gpt2: HookedTransformer,
    name: str,
    before: str,
    after: str,
    blank: bool,
):
    gap = " " if blank else ""
    template = without_end_blanks(f"{before}{gap}{{}}{gap}{after}")
    assume(template.count("{}") == 1 and (before + after).strip())
    fact = replace(Fact("Ada", RELATION, "x", "{} is"), subject=name, template=template)
    for model in (toy, bosless_gpt2):
        prompt = encode(model, fact)
        assert name in read(model, prompt, prompt.subject)
        for (start, end), span in zip(fact.relation_spans, prompt.relation, strict=True):
            assert fact.prompt[start:end] in read(model, prompt, span)
