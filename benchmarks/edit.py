"""How much faster is it to train a value only above the edited layer? python -m benchmarks.edit

Compares `kedit.editing.values.train`, including all that it reads beforehand, with the published
loop (compute_v of Meng et al.'s code) on a HookedTransformer. At every step, the published loop
runs the whole model on all rows as one padded batch and computes all logits of all tokens. In both,
parameters are frozen and weights are stored as kedit stores them. An edit needs 20 steps, as
published. The published loop's steps all cost the same, so only some are run. Both must reach the
same value. The last line is JSON: the published loop's time divided by ours, as a median.

  value_gpt2_small     GPT-2 small's shape, random weights, random tokens
  value_gemma          Gemma 3 270M, built-in requests, contexts by the model; one request per round

Further ratios, of kedit's own ways:

  together_gpt2_small  the values of eight requests, trained one after the other, against together
  memit_gemma          whole MEMIT edits of four requests, in batches of one, against in one batch
  rome_gemma           a whole ROME edit, against the training of its value alone

In whole edits C is the identity, and has been read: its reading is no part of an edit.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from transformer_lens import HookedTransformer

from benchmarks._gpt2 import VOCAB, gpt2_small
from benchmarks._timing import clock, report, seconds
from kedit.data import builtin
from kedit.editing.contexts import ROME_LENGTHS, rome_contexts
from kedit.editing.frozen import Row, Slot
from kedit.editing.keys import training_rows
from kedit.editing.second_moment import Moment
from kedit.editing.values import Training, train, train_all
from kedit.editing.write_sites import WriteSite
from kedit.editors.memit import MEMIT
from kedit.editors.rome import ROME
from kedit.facts import EditRequest
from kedit.forward.packed import padded
from kedit.models import toy
from kedit.models.load import load, prepare

EDIT = Training(stop=0.0)  # ROME's settings for GPT-2 XL, but without stopping early
AGREE = 1e-4  # largest difference: of values, relative to the norm; of losses, in nats
GPT2_LAYER = 4  # of 12, as published: 8 of GPT-2 medium's 24, 17 of GPT-2 XL's 48
GEMMA_LAYER = 5  # of 18
SMALL_RATE = 0.05  # a tenth of the rate of EDIT
TOGETHER = 8  # requests whose values are trained together


@dataclass(frozen=True)
class Plain:
    """The published loop's v*, its losses, and median seconds of a loss and of a step."""

    value: Tensor
    losses: list[float]
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """Rows as one padded batch, rows without targets last.

    Args:
        tokens: the padded tokens.
        mask: 1 for tokens, 0 for padding.
        targets: for rows with targets, the token that should follow each position.
        shares: weight of each target in the loss; 0 where there is no target.
        at: indices of the rows, and in each row the position that is written.
    """

    tokens: Tensor
    mask: Tensor
    targets: Tensor
    shares: Tensor
    at: tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, fewer steps of both ways")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads; 1 to compare machines"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    rounds, edit, few = (1, replace(EDIT, steps=10), 3) if options.quick else (3, EDIT, 5)
    print(f"GPT-2 small's shape, layer {GPT2_LAYER}, {options.threads} thread(s)")
    model = prepare(gpt2_small(), toy.tokenizer())
    by_round = [random_rows() for _ in range(rounds)]
    figures = {"value_gpt2_small": faster(model, by_round, GPT2_LAYER, edit, few)}
    bare = [[rows[0], rows[-1]] for rows in (random_rows() for _ in range(TOGETHER))]
    figures["together_gpt2_small"] = together(model, bare, GPT2_LAYER, edit)
    print(f"Gemma 3 270M, layer {GEMMA_LAYER}")
    model = load("gemma-3-270m", device="cpu")
    contexts, cases = rome_contexts(model), builtin.cases()
    cases = cases[len(cases) // 6 :: len(cases) // rounds][:rounds]
    by_round = [training_rows(model, case.entity, contexts, "subject_last") for case in cases]
    figures |= {"value_gemma": faster(model, by_round, GEMMA_LAYER, edit, few)}
    figures |= whole_edits(model, [case.entity for case in builtin.cases()[:4]], contexts, edit)
    report(figures)


def random_rows() -> list[Row]:
    """Makes training rows of random tokens: contexts of ROME's lengths, a prompt, and a target.

    The prompt has 8 tokens, of which the fourth is the subject's last; the target has 2 tokens.
    """
    drawn = iter(torch.randint(0, VOCAB, (1000,)).tolist())
    prompt, targets = tuple(islice(drawn, 8)), tuple(islice(drawn, 2))
    rows = []
    for length in [0, *(length for length, n in ROME_LENGTHS for _ in range(n))]:
        tokens = (*islice(drawn, length), *prompt, targets[0])
        rows.append(Row(tokens, length + 3, targets=targets))
    # like ROME's "S is a", whose predictions should stay
    return [*rows, Row((*prompt[2:4], *islice(drawn, 2)), 1)]


def faster(
    model: HookedTransformer, rounds: Sequence[list[Row]], layer: int, edit: Training, few: int
) -> float:
    """Checks that both ways give the same value; returns the ratio of their times (median)."""
    slot, ratios = Slot(layer, "mlp"), []
    for rows in rounds:
        # With a small learning rate: Adam's steps are as long for a gradient that is mere rounding
        # as for any other, so that differences by rounding would grow with the rate.
        same = replace(edit, lr=SMALL_RATE, steps=few)
        ours, whole = train(model, rows, [slot], same), plain(model, rows, layer, same)
        value = ours.written[slot][0] + ours.deltas[slot][0]
        off = float((value - whole.value).norm() / whole.value.norm())
        assert off < AGREE, f"v* is off by {off} of its norm"
        torch.testing.assert_close(list(ours.losses), whole.losses, atol=AGREE, rtol=0)
        mine = seconds(lambda rows=rows: train(model, rows, [slot], edit), 1, warm_up=False)
        loss_s, step_s = whole.seconds
        theirs = edit.steps * loss_s + (edit.steps - 1) * step_s  # no step follows the last loss
        ratios.append(theirs / mine)
        print(
            f"  {len(rows)} rows of up to {max(len(row.tokens) for row in rows)} tokens: "
            f"{theirs / edit.steps:.3f} s per step with the whole model, {mine / edit.steps:.3f} s "
            f"above the edit, {ratios[-1]:.1f}x; after {few} losses v* differs by {off:.0e}"
        )
    return statistics.median(ratios)


def together(
    model: HookedTransformer, problems: Sequence[list[Row]], layer: int, edit: Training
) -> float:
    """Checks that problems have the same values alone and together; returns the ratio of times."""
    slots = [Slot(layer, "mlp")]
    same = replace(edit, lr=SMALL_RATE, steps=3)  # as in `faster`
    for rows, packed in zip(problems, train_all(model, problems, slots, same), strict=True):
        alone = train(model, rows, slots, same)
        torch.testing.assert_close(packed.losses, alone.losses, atol=AGREE, rtol=0)
        off = (packed.deltas[slots[0]] - alone.deltas[slots[0]]).norm()
        assert off < AGREE * alone.written[slots[0]][0].norm(), f"a delta is off by {off}"
    one_by_one = seconds(lambda: [train(model, rows, slots, edit) for rows in problems], 1)
    packed_s = seconds(lambda: train_all(model, problems, slots, edit), 1)
    print(
        f"  {len(problems)} requests of {len(problems[0])} rows: {one_by_one:.2f} s one after the "
        f"other, {packed_s:.2f} s together, {one_by_one / packed_s:.1f}x"
    )
    return one_by_one / packed_s


def whole_edits(
    model: HookedTransformer,
    requests: Sequence[EditRequest],
    contexts: tuple[str, ...],
    edit: Training,
) -> dict[str, float]:
    """Times whole edits of ROME, with all contexts, and of MEMIT, with six, as its own are."""
    site = WriteSite(GEMMA_LAYER)
    identity = torch.eye(site.d_key(model), dtype=torch.float64)
    second = Moment((site,), (len(identity),), identity, 1, "nothing")
    given = {"training": edit, "moments": (second,)}
    memit = MEMIT((GEMMA_LAYER,), contexts=contexts[:6], **given)
    in_turn, at_once = replace(memit, batch=1).on(model), memit.on(model)
    in_turn_s, at_once_s = (seconds(lambda m=m: m(requests), 1, False) for m in (in_turn, at_once))
    rome, request = ROME(GEMMA_LAYER, contexts=contexts, **given).on(model), requests[0]
    rows, slots = (
        training_rows(model, request, contexts, "subject_last"),
        [Slot(GEMMA_LAYER, "mlp")],
    )
    rome_s = seconds(lambda: rome([request]), 1, False)
    train_s = seconds(lambda: train(model, rows, slots, edit), 1, False)
    print(
        f"  MEMIT of {len(requests)} requests: {in_turn_s:.1f} s in batches of one, "
        f"{at_once_s:.1f} s in one batch, {in_turn_s / at_once_s:.2f}x\n"
        f"  ROME: {rome_s:.2f} s, of which training its value alone takes {train_s:.2f} s"
    )
    return {"memit_gemma": in_turn_s / at_once_s, "rome_gemma": rome_s / train_s}


def plain(model: HookedTransformer, rows: list[Row], layer: int, training: Training) -> Plain:
    """Trains the value as the published loop does: whole model, whole batch, all logits."""
    batch, kept, written = batched(rows), None, []
    losses, loss_s, step_s = [], [], []
    delta = torch.zeros(model.cfg.d_model, requires_grad=True)
    assert training.lr is not None
    optimiser = torch.optim.Adam([delta], lr=training.lr)

    def write(module: object, inputs: object, raw: Tensor) -> Tensor:
        written.append(raw[0, rows[0].pos].detach().clone())
        raw[batch.at] += delta
        return raw

    # on the module, because `hook_mlp_out` comes after Gemma's post-norm
    with model.blocks[layer].mlp.register_forward_hook(write):
        for _ in range(training.steps):
            start = clock()
            logits = model(batch.tokens, attention_mask=batch.mask)
            loss, kept = loss_of(logits, batch, kept, training.kl)
            size = written[0].norm()
            loss = loss + training.weight_decay * delta.norm() / size**2
            losses.append(loss.item())
            loss_s.append(clock() - start)
            if len(losses) == training.steps:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                delta *= min(1.0, training.clamp * float(size / delta.norm()))
            step_s.append(clock() - start - loss_s[-1])
    medians = statistics.median(loss_s), statistics.median(step_s)
    return Plain(written[0] + delta.detach(), losses, medians)


def batched(rows: list[Row]) -> Batch:
    """Pads training rows to one batch."""
    with_targets = [row for row in rows if row.targets]
    tokens = padded([row.tokens for row in rows], torch.device("cpu"))
    targets, mask = torch.zeros_like(tokens[: len(with_targets)]), torch.zeros_like(tokens)
    shares = torch.zeros(targets.shape)
    for index, row in enumerate(rows):
        mask[index, : len(row.tokens)] = 1
    for index, row in enumerate(with_targets):
        part = slice(len(row.tokens) - len(row.targets), len(row.tokens))
        targets[index, part] = torch.tensor(row.targets)
        shares[index, part] = row.weight / len(row.targets) / len(with_targets)
    at = torch.arange(len(rows)), torch.tensor([row.pos for row in rows])
    return Batch(tokens, mask, targets, shares, at)


def loss_of(logits: Tensor, batch: Batch, kept: Tensor | None, kl: float) -> tuple[Tensor, Tensor]:
    """Computes the published loss, nll + kl · KL.

    Args:
        kept: log-probabilities that should stay; None at the first step, when they are read.

    Returns:
        The loss, and `kept`.
    """
    last = slice(len(batch.targets), None)
    now = logits[batch.at[0][last], batch.at[1][last]].log_softmax(-1)
    kept = now.detach().clone() if kept is None else kept
    logprobs = logits.log_softmax(-1).gather(2, batch.targets[..., None])[..., 0]
    drift = F.kl_div(kept, now, log_target=True, reduction="batchmean")
    return kl * drift - (batch.shares * logprobs).sum(), kept


if __name__ == "__main__":
    main()
