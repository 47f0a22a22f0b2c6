"""Provides toy-bert and toy-t5: tiny masked models that know the toy's facts from both sides.

Like the toy (`kedit.models.toy`), they are for tests and for a first try, and come with kedit as
trained weights. After a change to the facts or to the training, train them again (a minute each)
and set DIGESTS to what this command prints:

    python -c "from kedit.models import masked_toys; print(masked_toys.ship())"
"""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformer_lens import HookedEncoder, HookedEncoderDecoder, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

from kedit.models import toy
from kedit.models.masked import Masked, final_resid, moved
from kedit.models.masked_prompts import FIRST_SENTINEL, Sentence, masks_for
from kedit.models.outline import MASKED_TOYS
from kedit.models.shipped import read_shipped
from kedit.models.sites import final_norm

SEED, RATE, BATCH = 0, 1.5e-3, 128
STEPS = {"toy-bert": 1000, "toy-t5": 700}
PAD, END = 0, 1  # the padding token of both tokenizers, and the end of T5's texts
# fewer tokens than the facts have words, so that some names and objects have several tokens
N_TOKENS = {"toy-bert": 250, "toy-t5": 270}
DIGESTS = {
    "toy-bert": "63944a9fac2b40b31da63ddedbafd1b4e06d709dc5c46def1743ed6d180e871d",
    "toy-t5": "1e0fdae88b8e916665b7c2b3e72e604376dcdb5725062ca38b85b2ceda1ed5ae",
}


def file_of(name: str) -> Path:
    """Returns the file with the weights of a masked toy, and with its tokenizer as JSON."""
    return Path(__file__).with_name(f"{name}.safetensors")


def model(name: str, dtype: torch.dtype = torch.float32) -> tuple[Masked, PreTrainedTokenizerFast]:
    """Returns "toy-bert" or "toy-t5" with the weights that come with kedit, and its tokenizer.

    Raises:
        ModelUnavailable: the file that comes with kedit is missing or damaged.
    """
    weights, core = read_shipped(file_of(name), DIGESTS[name], name)
    words = _fast(name, core)
    found = _untrained(name, len(words))
    found.load_state_dict(weights, strict=False)
    return moved(found, dtype), words


def train(name: str, seed: int = SEED) -> tuple[Masked, PreTrainedTokenizerFast]:
    """Trains a masked toy from the initial weights that `seed` draws.

    It runs AdamW on random batches of all texts: each text with its object masked, and again with
    each beginning of the object given. It sets torch's global seed.
    """
    torch.manual_seed(seed)
    words = _trained_tokenizer(name)
    found = _untrained(name, len(words))
    _initialise(found)
    found.tokenizer = words
    examples, decoder, targets = (list(part) for part in zip(*_examples(found), strict=True))
    tokens, inputs, labels = (
        torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=padding)
        for part, padding in ((examples, PAD), (decoder, PAD), (targets, -100))
    )
    optimiser = torch.optim.AdamW(found.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=RATE, total_steps=STEPS[name])
    with torch.enable_grad():
        for _ in itertools.repeat(None, STEPS[name]):
            rows = torch.randint(len(tokens), (BATCH,))
            told = labels[rows]
            there = (tokens[rows] != PAD).int()
            resid = final_resid(found, tokens[rows], inputs[rows], there)[told != -100]
            logits = found.unembed(final_norm(found, resid)[None])[0]
            loss = F.cross_entropy(logits, told[told != -100])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    optimiser.zero_grad()  # the trained toy has no gradients left
    return found, words


def ship() -> dict[str, str]:
    """Trains both masked toys again and writes their files; returns the files' SHA-256 digests."""
    found = {}
    for name in DIGESTS:
        trained, words = train(name)
        weights = {key: weight.detach().contiguous() for key, weight in trained.named_parameters()}
        written = save(weights, {"tokenizer": words.backend_tokenizer.to_str()})
        file_of(name).write_bytes(written)
        found[name] = hashlib.sha256(written).hexdigest()
    return found


def _untrained(name: str, d_vocab: int) -> Masked:
    """A model of the toy's shape; its weights are not set."""
    shape: dict[str, Any] = vars(MASKED_TOYS[name]) | {
        "device": "cpu", "model_name": name, "d_vocab": d_vocab, "init_weights": False,
        "attention_dir": "bidirectional",
    }  # fmt: skip
    if name == "toy-bert":
        cfg = HookedTransformerConfig(**shape, act_fn="gelu")
        return HookedEncoder(cfg, move_to_device=False)
    return HookedEncoderDecoder(
        HookedTransformerConfig(
            **shape,
            act_fn="relu",
            normalization_type="RMS",
            eps=1e-6,
            positional_embedding_type="relative_positional_bias",
            relative_attention_max_distance=64,
            relative_attention_num_buckets=16,
            decoder_start_token_id=PAD,
            use_attn_scale=False,
            tie_word_embeddings=False,
        ),
        move_to_device=False,
    )


def _initialise(found: Masked) -> None:
    """Draws initial weights: norms are 1, biases 0, and matrices keep the size of their input."""
    for key, weight in found.named_parameters():
        last = key.rpartition(".")[2]
        if last == "w":
            weight.data.fill_(1)
        elif last.startswith("b"):
            weight.data.zero_()
        elif last.startswith("W_E") or "pos" in last or "type" in last or last == "weight":
            weight.data.normal_(0, 0.5)
        else:
            # W_Q, W_K, W_V are [head, d_model, d_head], W_O is [head, d_head, d_model]
            fan_in = weight.shape[-2] * (weight.shape[0] if last == "W_O" else 1)
            small = (
                weight.shape[-1] ** -0.5 if last == "W_Q" and not found.cfg.use_attn_scale else 1
            )
            weight.data.normal_(0, small * fan_in**-0.5)


def _examples(found: Masked) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields the tokens, the decoder's tokens and the targets of each text.

    BERT has no decoder: its targets are at the masks.
    """
    for prompt, answer in toy.texts():
        sentence = Sentence.of(found, prompt, answer, ".")
        start, end = sentence.object
        told, masks = sentence.ids[start:end], masks_for(found, end - start)
        if isinstance(found, HookedEncoder):
            for n in range(len(told)):
                tokens = sentence.ids[:start] + told[:n] + masks[n:] + sentence.ids[end:]
                labels = torch.full((len(tokens),), -100)
                labels[start + n] = told[n]
                yield torch.tensor(tokens), torch.tensor([PAD]), labels
        else:
            tokens = sentence.ids[:start] + masks + sentence.ids[end:]
            labels = [-100, *told, END]
            yield torch.tensor(tokens), torch.tensor([PAD, *masks, *told]), torch.tensor(labels)


def _trained_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the toy's texts: WordPiece (BERT), or BPE that marks blanks (T5)."""
    texts = [f"{prompt} {answer}." for prompt, answer in toy.texts()]
    if name == "toy-bert":
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=False)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=N_TOKENS[name],
            special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            show_progress=False,
        )
        ends, single = ("[CLS]", "[SEP]"), "[CLS] $A [SEP]"
    else:
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
        )
        core.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=N_TOKENS[name],
            special_tokens=["<pad>", "</s>", "<unk>", FIRST_SENTINEL],
            show_progress=False,
        )
        ends, single = ("</s>",), "$A </s>"
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(end, core.token_to_id(end)) for end in ends]
    )
    return _fast(name, core)


def _fast(name: str, core: Tokenizer) -> PreTrainedTokenizerFast:
    if name == "toy-bert":
        return PreTrainedTokenizerFast(
            tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
            sep_token="[SEP]", mask_token="[MASK]",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=[FIRST_SENTINEL],
    )  # fmt: skip
