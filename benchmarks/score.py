"""How much faster are batches with shared prefixes than one prompt at a time?

Both ways compute the same likelihoods, with the weights stored as kedit stores them; the plain ways
are timed on some of the prompts, which is said. Ends with one line of JSON: ratios of prompts/s.
"""

import argparse
import time

import torch
from transformer_lens import HookedTransformer

from benchmarks._timing import report
from kedit.data import builtin
from kedit.forward.likelihood import Likelihood, Query, likelihoods
from kedit.models.load import load
from kedit.models.prompts import answers_ids, prompt_ids

AGREE = 1e-4  # nats


@torch.no_grad()
def plain(model: HookedTransformer, asked: list[Query]) -> list[list[Likelihood]]:
    """One forward for every prompt with every answer: all logits of all tokens."""
    found = []
    for one in asked:
        answers = []
        for answer in one.answers + one.field:
            tokens = torch.tensor([one.prompt + answer])
            logprobs = model(tokens)[0, len(one.prompt) - 1 : -1].log_softmax(-1)
            wanted = torch.tensor(answer)
            each = logprobs.gather(1, wanted[:, None])
            answers.append(
                Likelihood(float(each.mean()), bool((logprobs.argmax(-1) == wanted).all()))
            )
        found.append(answers)
    return found


@torch.no_grad()
def a_batch_a_prompt(model: HookedTransformer, asked: list[Query]) -> list[list[float]]:
    """One forward a prompt: its answers as a padded batch, logits of the last tokens only."""
    found = []
    for one in asked:
        answers = one.answers + one.field
        width = max(map(len, answers))
        rows = [[*one.prompt, *answer, *[0] * (width - len(answer))] for answer in answers]
        resid = model(torch.tensor(rows), stop_at_layer=model.cfg.n_layers)
        resid = resid[:, len(one.prompt) - 1 : -1]
        logprobs = model.unembed(model.ln_final(resid)).log_softmax(-1)
        found.append(
            [
                float(logprobs[row, range(len(answer)), list(answer)].mean())
                for row, answer in enumerate(answers)
            ]
        )
    return found


def rate(work, model: HookedTransformer, asked: list[Query]) -> tuple[float, list]:
    """Prompts a second, and what was found."""
    work(model, asked[:1])  # warm
    start = time.perf_counter()
    found = work(model, asked)
    return len(asked) / (time.perf_counter() - start), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--cases", type=int, default=48, help="edit cases, all their prompts")
    parser.add_argument("--plain", type=int, default=120, help="prompts of these for plain ways")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="fewer of both")
    options = parser.parse_args()
    n_cases, n_plain = (5, 10) if options.quick else (options.cases, options.plain)
    torch.set_num_threads(options.threads)
    model = load(options.model, device="cpu")
    cases = builtin.cases()
    cases = cases[:: max(1, len(cases) // n_cases)][:n_cases]
    probes = [probe for case in cases for probe in case.probes]
    names = sorted({probe.label for probe in probes if probe.label})
    asked = [
        Query(
            prompt_ids(model, probe.prompt),
            tuple(answers_ids(model, probe.prompt, [*filter(None, (probe.answer, probe.rival))])),
        )
        for probe in probes
    ]
    ranked = [
        Query(one.prompt, one.answers, tuple(answers_ids(model, probe.prompt, names)))
        for one, probe in zip(asked, probes, strict=True)
        if probe.label
    ]
    figures = {}
    for title, key, questions, n in (
        ("answer and rival", "gemma", asked, n_plain),
        (f"rank among {len(names)} names too", "gemma_ranks", ranked, max(2, n_plain // 20)),
    ):
        sample = questions[:: max(1, len(questions) // n)][:n]
        fast, found = rate(likelihoods, model, questions)
        slow, expected = rate(plain, model, sample)
        batch, _ = rate(a_batch_a_prompt, model, sample)
        found = found[:: max(1, len(questions) // n)][:n]
        for one, other in zip(found, expected, strict=True):
            for mine, theirs in zip(one.answers, other, strict=False):
                assert abs(mine.logprob - theirs.logprob) < AGREE
        print(
            f"{title}: {len(questions)} prompts of {len(cases)} cases at {fast:.1f} prompts/s; "
            f"one prompt and answer at a time {slow:.2f}, all answers of a prompt at a time "
            f"{batch:.2f} ({len(sample)} of the prompts)"
        )
        figures |= {key: fast / slow, f"{key}_batch": fast / batch}
    report(figures)


if __name__ == "__main__":
    main()
