"""What kedit computes on devices, against the CPU: on CUDA, and on pretended devices without it.

Every test runs with the model on one device, and with its layers divided among two.
`python -m pytest -m cuda` runs the tests on CUDA. Elsewhere the same tests run on devices that
obey CUDA's rules about where tensors are (`tests.pretended`), but round as the CPU does.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

import kedit
from kedit.editing.deltas import norm_of
from kedit.editing.edit import Edit
from kedit.editing.moments import moment
from kedit.editing.write_sites import WriteSite
from kedit.editors.registry import EDITORS, make_editor
from kedit.facts import EditCase
from kedit.forward.generation import greedy, sampled
from kedit.forward.metrics import METRICS
from kedit.heads import Head
from kedit.models import toy as toy_module
from kedit.models.load import load, prepare, storage_orders
from kedit.models.prompts import device, encode, prompt_ids
from kedit.models.split import divide
from kedit.results.scores import EditScore
from kedit.scoring.drift import baseline, drift
from kedit.scoring.score import Scoring, own_words, score
from probes.ablation import ablate, mean_z, zero_z
from probes.attention import attention_to_roles, weighted_attention_to_roles
from probes.attribution import attributed
from probes.corrupt import Corruption, Noise, add_noise, replaced
from probes.direct import direct_effects
from probes.knockout import Cut, knockout
from probes.neurons import search
from probes.ov_circuit import ov_writes
from probes.patch import Patch
from probes.path_patching import Receiver, path_patch
from probes.scaling import Scaling, scaled
from probes.separation import metrics, separation
from tests import pretended
from tests.conftest import (
    PATCHES,
    QUESTION,
    TOLERANCES,
    FamilyOf,
    assert_same_scores,
    clean_run,
    swept,
)

FACT = toy_module.facts()[0]  # "The birthplace of Ada Alder is"
INSTRUMENT = "The instrument of Ada Alder is"
CASES = toy_module.cases()[:2]
LABELS = tuple(relation.name for relation in toy_module.WORLD)
# Largest difference of log-probabilities in bfloat16, which has three digits, from float32. On a
# CPU the largest one is 0.06.
HALF = 0.25
# The steps of training amplify rounding. Largest difference that this makes to log-probabilities
# under an edit, and to the edit's norm as a share of it. Between two ways to compute attention on a
# CPU it is 6e-6 and 2e-6.
TRAINED, OFF = 1e-3, 1e-3


Devices = list[torch.device]  # one, or several among which the model is divided


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((kind, n), id=f"{kind}-{n}", marks=pytest.mark.cuda if kind == "cuda" else ())
        for kind in (pretended.DEVICE, "cuda")
        for n in (1, 2)
    ],
)
def there(request: pytest.FixtureRequest) -> Iterator[Devices]:
    """The devices that are compared with the CPU."""
    kind, n = request.param
    devices = [torch.device(kind, index) for index in range(n)]
    if kind == "cuda":
        if torch.cuda.device_count() < n:
            pytest.skip(f"{n} CUDA devices are needed")
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # no TF32, which is PyTorch's default
        yield devices
        torch.set_float32_matmul_precision(precision)
        return
    if torch.cuda.is_available():
        pytest.skip("the tests on CUDA itself show more")
    if not pretended.IS_POSSIBLE:
        pytest.skip("PyTorch 2.9 or later is needed to pretend a device")
    with pretended.set_up():
        yield devices


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def on(there: Devices, model: HookedTransformer) -> HookedTransformer:
    """A copy of the model on the devices."""
    copied = copy.deepcopy(model)
    divide(copied, there)
    return copied


@pytest.fixture(scope="module")
def other(there: Devices, toy: HookedTransformer) -> HookedTransformer:
    """The toy on the devices."""
    return on(there, toy)


@pytest.fixture(scope="module")
def half(there: Devices) -> HookedTransformer:
    """The toy on the devices in bfloat16."""
    return on(there, prepare(*toy_module.model(torch.bfloat16)))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(" ".join(f"{fact.prompt} {fact.object}." for fact in toy_module.facts()))
    return str(file)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_load_puts_all_weights_on_the_device(toy: HookedTransformer, dtype: str) -> None:
    model = load("toy", "cuda", dtype)
    assert device(model).type == "cuda" and load("toy").embed.W_E.is_cuda  # "auto" takes CUDA
    own = dict(toy.named_parameters())
    for name, weight in model.named_parameters():
        assert weight.is_cuda and weight.dtype == getattr(torch, dtype)
        assert torch.equal(weight.cpu(), own[name].to(weight.dtype))
        if name in storage_orders(model):
            assert weight.stride() == own[name].stride()
    assert all(buffer.is_cuda for buffer in model.buffers())


@pytest.mark.parametrize(("name", "by"), [("toy", "noise"), ("gemma3", "replacement")])
def test_sweeps_agree(
    there: Devices, toy: HookedTransformer, family: FamilyOf, name: str, by: str
) -> None:
    model = toy if name == "toy" else family(name).model
    models = model, on(there, model)
    for patch in PATCHES:
        here, found = (swept(own, FACT, corrupted(own, by), patch) for own in models)
        for one, right in zip(
            (found.restored, found.clean, found.corrupted),
            (here.restored, here.clean, here.corrupted),
            strict=True,
        ):
            assert_same_scores(one, right)
        assert (here.restored.flatten(1) != here.corrupted[:, None]).any()  # there is an effect


def corrupted(model: HookedTransformer, by: str) -> Corruption:
    if by == "noise":
        return add_noise(model, encode(model, FACT), "subject", Noise(0.5), samples=3, seed=0)
    return replaced(model, FACT, "relation", toy_module.facts(), seed=0)


def test_prompts_patched_agree(toy: HookedTransformer, other: HookedTransformer) -> None:
    for site in ("z", "severed"):
        here, found = (
            kedit.patch(model, FACT.prompt, INSTRUMENT, site, answer="Corum", foil="Arle")
            for model in (toy, other)
        )
        for name, grid in here.grids.items():
            assert_same_scores(found.grids[name].restored, grid.restored)


def probed(model: HookedTransformer) -> dict[str, Tensor]:
    """The results of probes other than sweeps, on the CPU."""
    prompt = encode(model, FACT)
    clean, corruption = clean_run(model, FACT), corrupted(model, "replacement")
    states, others = clean.states(model), corruption.run.states(model)
    sets = [frozenset(), frozenset({Head(0, 1)}), frozenset({Head(1, 0), Head(2, 3)})]
    receivers = [Receiver("q", 2, 1), Receiver("v", 3, 0), Receiver("mlp", 2), Receiver("logits")]
    direct = direct_effects(model, states, QUESTION)
    paths = path_patch(model, clean, corruption.run, Head(1, 2), receivers, QUESTION)
    whole = Patch("mlp_out", 3), Patch("z"), Patch("resid_post")
    ways = {
        "paths": paths.restored,
        "heads": direct.heads,
        "mlps": direct.mlps,
        "cut": knockout(model, prompt, QUESTION, Cut("last", "subject"), 2).scores,
        "without": ablate(model, prompt, QUESTION, sets, zero_z(model, prompt)),
        "mean": ablate(model, prompt, QUESTION, sets, mean_z(model, [prompt], prompt)),
        "attention": attention_to_roles(model, prompt),
        "weighted": weighted_attention_to_roles(model, prompt),
        "ov": torch.tensor(ov_writes(model, prompt, states, Head(2, 1)).answer_logit),
        "scaled": scaled(
            model, prompt.tokens, QUESTION.answer, [Scaling(search(model, [FACT]).neurons, 2.0)]
        ),
        **attributed(model, states, others, whole, QUESTION, steps=2),
    }
    return {name: value.cpu() for name, value in ways.items()}


def test_probes_agree(toy: HookedTransformer, other: HookedTransformer) -> None:
    here, found = probed(toy), probed(other)
    for name, value in here.items():
        assert value.any(), name
        torch.testing.assert_close(found[name], value, atol=5e-5, rtol=1e-4, msg=name)


def test_moments_and_separations_agree(
    toy: HookedTransformer, other: HookedTransformer, text: str
) -> None:
    sites = [WriteSite(2), WriteSite(2, "attn")]
    here, found = (moment(model, sites, text, 600, cache=False) for model in (toy, other))
    assert found.matrix.device == device(other)  # where the keys are that it is used with
    scale = float(here.matrix.diagonal().max())
    torch.testing.assert_close(found.matrix.cpu(), here.matrix, atol=1e-5 * scale, rtol=0)
    request = CASES[0].entity
    neighbours = [demand for case in toy_module.cases()[1:5] for demand in case.entity.demands]
    one, two = (
        torch.tensor(
            separation(model, request, neighbours, "subject_last", metrics(model, [second]))
        )
        for model, second in ((toy, here.shrunk(0.01)), (other, found.shrunk(0.01)))
    )
    assert (one[:, 0] < 1).any()
    torch.testing.assert_close(two, one, atol=1e-4, rtol=0, equal_nan=True)


def scored(model: HookedTransformer, cases: list[EditCase]) -> list[EditScore]:
    return score(model, cases, Scoring(LABELS), own_words(model, cases))


def assert_alike(found: list[EditScore], expected: list[EditScore], tolerance: float) -> None:
    """The same probes, with log-probabilities that differ by less than the tolerance."""
    for one, own in zip(found, expected, strict=True):
        for probe, right in zip(one.probes, own.probes, strict=True):
            assert replace(probe, logprob=0.0, rival_logprob=0.0) == replace(
                right, logprob=0.0, rival_logprob=0.0
            )
            assert probe.logprob == pytest.approx(right.logprob, abs=tolerance)
            assert probe.rival_logprob == pytest.approx(right.rival_logprob, abs=tolerance)


def test_scores_texts_and_drift_agree(toy: HookedTransformer, other: HookedTransformer) -> None:
    assert_alike(scored(other, CASES), scored(toy, CASES), TOLERANCES["logprob"])
    prompts = [prompt_ids(toy, fact.prompt) for fact in toy_module.facts()[:3]]
    assert greedy(other, prompts, 5) == greedy(toy, prompts, 5)
    assert sampled(other, prompts, 15, 5, seed=0) == sampled(toy, prompts, 15, 5, seed=0)
    chunks = torch.tensor([range(5, 25), range(25, 45)])
    here, found = (baseline(model, chunks.to(device(model))) for model in (toy, other))
    torch.testing.assert_close(found.nll.cpu(), here.nll, atol=5e-5, rtol=0)
    assert float(drift(other, found).kl.max()) < 1e-5


WAITS = {"mend": pytest.mark.slow}  # it is to be trained first


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=WAITS.get(name, ())) for name in EDITORS]
)
def test_editors_agree_and_an_edit_is_undone_bit_for_bit(
    request: pytest.FixtureRequest,
    toy: HookedTransformer,
    other: HookedTransformer,
    tmp_path: Path,
    name: str,
) -> None:
    if name == "mend":
        request.getfixturevalue("shipped_mend")
    case = CASES[0]
    here, found = (
        make_editor(name, "toy", "relation")(model, [case.request("relation")])
        for model in (toy, other)
    )
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with here.applied(toy):
        expected = scored(toy, [case])
    with found.applied(other):
        assert any(not torch.equal(value, before[key]) for key, value in other.state_dict().items())
        assert_alike(scored(other, [case]), expected, TRAINED)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    # a saved edit is read to the CPU, and applies to a model on a device too
    loaded = Edit.load(found.save(tmp_path / "edit.safetensors"))
    with loaded.applied(other):
        assert_alike(scored(other, [case]), expected, TRAINED)
    for key, delta in here.deltas.items():
        assert norm_of(found.deltas[key]) == pytest.approx(norm_of(delta), rel=OFF)


def test_bfloat16_is_near_float32(toy: HookedTransformer, half: HookedTransformer) -> None:
    assert half.embed.W_E.dtype == torch.bfloat16
    for patch in (Patch("resid_post"), Patch("mlp_out", 3), Patch("z"), Patch("attn_out")):
        here, found = (
            swept(model, FACT, corrupted(model, "replacement"), patch) for model in (toy, half)
        )
        assert found.restored.isfinite().all()
        logprob = METRICS.index("logprob")
        off = (found.restored[logprob] - here.restored[logprob]).abs()
        assert off.max() < HALF
        assert (here.clean - here.corrupted)[logprob].abs() > 2 * HALF  # a large effect is seen
    for one, own in zip(scored(half, CASES), scored(toy, CASES), strict=True):
        for probe, right in zip(one.probes, own.probes, strict=True):
            assert probe.logprob == pytest.approx(right.logprob, abs=HALF)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rome", "ft"])
def test_edits_in_bfloat16_make_the_target_likelier(half: HookedTransformer, name: str) -> None:
    case = CASES[0]
    before = scored(half, [case])[0].probes[0].logprob
    weights = {key: value.clone() for key, value in half.state_dict().items()}
    edit = make_editor(name, "toy")(half, [case.entity])
    with edit.applied(half):
        after = scored(half, [case])[0].probes[0].logprob
    assert before + 1 < after < 0
    assert all(torch.equal(value, weights[key]) for key, value in half.state_dict().items())
