"""How much faster is scoring in batches with shared prefixes? python -m benchmarks.score

Compares `kedit.forward.likelihood.likelihoods` with one prompt and answer at a time, and with one
batch per prompt. All compute the same likelihoods, with the weights stored as kedit stores them.
The plain ways are timed on a sample of the prompts, whose size is printed. The last line is JSON:
ratios of prompts per second.
"""

import argparse

import torch
from transformer_lens import HookedTransformer

from benchmarks._timing import report, timed
from kedit.data import builtin
from kedit.forward.likelihood import Likelihood, Query, likelihoods
from kedit.models.load import load
from kedit.models.prompts import answers_ids, prompt_ids

AGREE = 1e-4  # nats


@torch.no_grad()
def plain(model: HookedTransformer, queries: list[Query]) -> list[list[Likelihood]]:
    """Scores with one forward pass per prompt and answer, and all logits of all tokens."""
    found = []
    for query in queries:
        answers = []
        for answer in query.answers + query.field:
            tokens = torch.tensor([query.prompt + answer])
            logprobs = model(tokens)[0, len(query.prompt) - 1 : -1].log_softmax(-1)
            ids = torch.tensor(answer)
            by_token = logprobs.gather(1, ids[:, None])
            answers.append(
                Likelihood(float(by_token.mean()), bool((logprobs.argmax(-1) == ids).all()))
            )
        found.append(answers)
    return found


@torch.no_grad()
def batch_per_prompt(model: HookedTransformer, queries: list[Query]) -> list[list[float]]:
    """Scores with one forward pass per prompt: its answers as a padded batch, few logits."""
    found = []
    for query in queries:
        answers = query.answers + query.field
        width = max(map(len, answers))
        rows = [[*query.prompt, *answer, *[0] * (width - len(answer))] for answer in answers]
        resid = model(torch.tensor(rows), stop_at_layer=model.cfg.n_layers)
        resid = resid[:, len(query.prompt) - 1 : -1]
        logprobs = model.unembed(model.ln_final(resid)).log_softmax(-1)
        found.append(
            [
                float(logprobs[row, range(len(answer)), list(answer)].mean())
                for row, answer in enumerate(answers)
            ]
        )
    return found


def rate(work, model: HookedTransformer, queries: list[Query]) -> tuple[float, list]:
    """Times `work`; returns prompts per second, and its result."""
    work(model, queries[:1])  # warm up
    found, time = timed(lambda: work(model, queries))
    return len(queries) / time, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--cases", type=int, default=48, help="edit cases whose prompts are scored")
    parser.add_argument("--plain", type=int, default=120, help="prompts to time the plain ways on")
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
    queries = [
        Query(
            prompt_ids(model, probe.prompt),
            tuple(answers_ids(model, probe.prompt, [*filter(None, (probe.answer, probe.rival))])),
        )
        for probe in probes
    ]
    ranked = [
        Query(query.prompt, query.answers, tuple(answers_ids(model, probe.prompt, names)))
        for query, probe in zip(queries, probes, strict=True)
        if probe.label
    ]
    figures = {}
    for title, key, scored, n in (
        ("answer and rival", "gemma", queries, n_plain),
        (f"rank among {len(names)} names too", "gemma_ranks", ranked, max(2, n_plain // 20)),
    ):
        sample = scored[:: max(1, len(scored) // n)][:n]
        fast, found = rate(likelihoods, model, scored)
        slow, expected = rate(plain, model, sample)
        batch, _ = rate(batch_per_prompt, model, sample)
        found = found[:: max(1, len(scored) // n)][:n]
        for ours, theirs in zip(found, expected, strict=True):
            for our, their in zip(ours.answers, theirs, strict=False):
                assert abs(our.logprob - their.logprob) < AGREE
        print(
            f"{title}: {len(scored)} prompts of {len(cases)} cases at {fast:.1f} prompts/s; "
            f"one prompt and answer at a time {slow:.2f}, all answers of a prompt at a time "
            f"{batch:.2f} ({len(sample)} of the prompts)"
        )
        figures |= {key: fast / slow, f"{key}_batch": fast / batch}
    report(figures)


if __name__ == "__main__":
    main()
