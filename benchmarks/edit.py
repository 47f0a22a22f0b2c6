"""How much faster is training a value above the edit only than with the whole model?

The plain way is the published loop (compute_v of Meng et al.'s code) on HookedTransformer: at every
step the whole model on all rows as one padded batch, all logits of all tokens, parameters frozen,
weights stored as kedit stores them. Ours is `kedit.editing.values.train`, with all that it reads
beforehand. An edit takes 20 steps, as published; of the plain way, whose steps all cost the same,
some are run. Both must come to the same value. Ends with one line of JSON: the plain way's time by
ours, medians.

  value_gpt2_small  its shape, random weights, random tokens
  value_gemma       Gemma 3 270M, built-in requests, contexts of its own; one request a round
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from transformer_lens import HookedTransformer

from benchmarks._gpt2 import VOCAB, gpt2_small
from benchmarks._timing import report, seconds
from kedit.data import builtin
from kedit.editing.contexts import ROME_LENGTHS, rome_contexts
from kedit.editing.keys import training_rows
from kedit.editing.values import Row, Slot, Training, train
from kedit.forward.packed import padded
from kedit.models import toy
from kedit.models.load import load, prepare

EDIT = Training(stop=0.0)  # as ROME's for GPT-2 XL, but never ending early
AGREE = 1e-4  # of the value's norm; nats
GPT2_LAYER = 4  # of 12, as published: 8 of GPT-2 medium's 24, 17 of GPT-2 XL's 48
GEMMA_LAYER = 5  # of 18


@dataclass(frozen=True)
class Plain:
    """The plain way's v*, its losses, and median seconds of a loss and of the step behind it."""

    value: Tensor
    losses: list[float]
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """Rows as one padded batch, those without targets last."""

    tokens: Tensor
    mask: Tensor
    targets: Tensor  # of the rows that have any: the token wanted behind each position
    shares: Tensor  # of these in the loss, 0 where nothing is wanted
    at: tuple[Tensor, Tensor]  # each row, and the position that is written there


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, fewer steps of both ways")
    parser.add_argument("--threads", type=int, default=1, help="of torch: one, to compare machines")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    rounds, edit, few = (1, replace(EDIT, steps=10), 3) if options.quick else (3, EDIT, 5)
    print(f"GPT-2 small's shape, layer {GPT2_LAYER}, {options.threads} thread(s)")
    model = prepare(gpt2_small(), toy.tokenizer())
    asked = [random_rows() for _ in range(rounds)]
    figures = {"value_gpt2_small": faster(model, asked, GPT2_LAYER, edit, few)}
    print(f"Gemma 3 270M, layer {GEMMA_LAYER}")
    model = load("gemma-3-270m", device="cpu")
    contexts, cases = rome_contexts(model), builtin.cases()
    some = cases[len(cases) // 6 :: len(cases) // rounds][:rounds]
    asked = [training_rows(model, case.entity, contexts, "subject_last") for case in some]
    report(figures | {"value_gemma": faster(model, asked, GEMMA_LAYER, edit, few)})


def random_rows() -> list[Row]:
    """A prompt of 8 tokens, its subject ending at the fourth, behind contexts; a target of 2."""
    drawn = iter(torch.randint(0, VOCAB, (1000,)).tolist())
    prompt, targets = tuple(islice(drawn, 8)), tuple(islice(drawn, 2))
    rows = []
    for length in [0, *(length for length, n in ROME_LENGTHS for _ in range(n))]:
        tokens = (*islice(drawn, length), *prompt, targets[0])
        rows.append(Row(tokens, length + 3, targets=targets))
    return [*rows, Row((*prompt[2:4], *islice(drawn, 2)), 1)]  # "S is a", which is to stay


def faster(
    model: HookedTransformer, rounds: Sequence[list[Row]], layer: int, edit: Training, few: int
) -> float:
    """Median over rounds of the plain way's time by ours; their values must be the same."""
    slot, ratios = Slot(layer, "mlp"), []
    for rows in rounds:
        # slow: along a gradient that is all rounding Adam steps as far as along any other
        same = replace(edit, lr=edit.lr / 10, steps=few)
        ours, whole = train(model, rows, [slot], same), plain(model, rows, layer, same)
        value = ours.written[slot][0] + ours.deltas[slot][0]
        off = float((value - whole.value).norm() / whole.value.norm())
        assert off < AGREE, f"v* is off by {off} of its norm"
        torch.testing.assert_close(list(ours.losses), whole.losses, atol=AGREE, rtol=0)
        mine = seconds(lambda rows=rows: train(model, rows, [slot], edit), 1, warm_up=False)
        loss_s, step_s = whole.seconds
        theirs = edit.steps * loss_s + (edit.steps - 1) * step_s  # the last loss makes no step
        ratios.append(theirs / mine)
        print(
            f"  {len(rows)} rows of up to {max(len(row.tokens) for row in rows)} tokens: "
            f"{theirs / edit.steps:.3f} s a step with the whole model, {mine / edit.steps:.3f} s "
            f"above the edit, {ratios[-1]:.1f}x; after {few} losses v* is off by {off:.0e}"
        )
    return statistics.median(ratios)


def plain(model: HookedTransformer, rows: list[Row], layer: int, training: Training) -> Plain:
    """The published loop: at every step the whole model, the whole batch, all logits."""
    batch, stay, written = batched(rows), None, []
    losses, loss_s, step_s = [], [], []
    delta = torch.zeros(model.cfg.d_model, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=training.lr)

    def write(module: object, inputs: object, raw: Tensor) -> Tensor:
        written.append(raw[0, rows[0].pos].detach().clone())
        raw[batch.at] += delta
        return raw

    # on the module: `hook_mlp_out` lies behind Gemma's post-norm
    with model.blocks[layer].mlp.register_forward_hook(write):
        for _ in range(training.steps):
            start = time.perf_counter()
            logits = model(batch.tokens, attention_mask=batch.mask)
            loss, stay = loss_of(logits, batch, stay, training.kl)
            size = written[0].norm()
            loss = loss + training.weight_decay * delta.norm() / size**2
            losses.append(loss.item())
            loss_s.append(time.perf_counter() - start)
            if len(losses) == training.steps:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                delta *= min(1.0, training.clamp * float(size / delta.norm()))
            step_s.append(time.perf_counter() - start - loss_s[-1])
    medians = statistics.median(loss_s), statistics.median(step_s)
    return Plain(written[0] + delta.detach(), losses, medians)


def batched(rows: list[Row]) -> Batch:
    wanted = [row for row in rows if row.targets]
    tokens = padded([row.tokens for row in rows], torch.device("cpu"))
    targets, mask = torch.zeros_like(tokens[: len(wanted)]), torch.zeros_like(tokens)
    shares = torch.zeros(targets.shape)
    for number, row in enumerate(rows):
        mask[number, : len(row.tokens)] = 1
    for number, row in enumerate(wanted):
        part = slice(len(row.tokens) - len(row.targets), len(row.tokens))
        targets[number, part] = torch.tensor(row.targets)
        shares[number, part] = row.weight / len(row.targets) / len(wanted)
    at = torch.arange(len(rows)), torch.tensor([row.pos for row in rows])
    return Batch(tokens, mask, targets, shares, at)


def loss_of(logits: Tensor, batch: Batch, stay: Tensor | None, kl: float) -> tuple[Tensor, Tensor]:
    """nll + kl · KL as published, and the log-probabilities that are to stay."""
    last = slice(len(batch.targets), None)
    now = logits[batch.at[0][last], batch.at[1][last]].log_softmax(-1)
    stay = now.detach().clone() if stay is None else stay
    said = logits.log_softmax(-1).gather(2, batch.targets[..., None])[..., 0]
    drift = F.kl_div(stay, now, log_target=True, reduction="batchmean")
    return kl * drift - (batch.shares * said).sum(), stay


if __name__ == "__main__":
    main()
