"""What holds for every editor by name, how their settings are told, and what was published."""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.edit import Delta, Edit, Editor, LowRank, combined
from kedit.editing.values import Training
from kedit.editing.write_sites import Half
from kedit.editors.defaults import defaults
from kedit.editors.kn import KN
from kedit.editors.memit import MEMIT
from kedit.editors.mend import MEND
from kedit.editors.presets import PRESETS
from kedit.editors.registry import EDITORS, make_editor
from kedit.editors.rome import ROME
from kedit.editors.sides import Sides
from kedit.editors.variants import VARIANTS, Variant
from kedit.errors import InputError
from kedit.facts import Perspective
from kedit.models import toy as toy_module
from kedit.models.load import load
from kedit.scoring.score import Scoring, score
from tests.conftest import log_odds

DERIVED = defaults(1)
DERIVED_TRAINING: Any = vars(DERIVED["rome"])["training"]
EditOf = Callable[[str, Perspective], Edit]
CASES = toy_module.cases()
CASE = CASES[0]
BOTH: tuple[Half, ...] = ("mlp", "attn")
PERSPECTIVES: tuple[Perspective, ...] = get_args(Perspective)
# MEND is to be trained first, which takes as long as all the others together
WAITS = {"mend": pytest.mark.slow}
by_name = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=WAITS.get(name, ())) for name in EDITORS]
)
by_side = pytest.mark.parametrize("side", PERSPECTIVES)


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, cached_moments: None) -> None:
    """One cache of moments for this file, and a MEND for the toy where it is asked for."""
    if request.node.get_closest_marker("slow"):
        request.getfixturevalue("shipped_mend")


@pytest.fixture(scope="session")
def edit_of(toy: HookedTransformer) -> EditOf:
    """The edit that an editor makes for CASE with the toy's settings, once a session."""

    @functools.cache
    def made(name: str, side: Perspective) -> Edit:
        return make_editor(name, "toy", side)(toy, [CASE.request(side)])

    return made


def parts(delta: Delta) -> tuple[Tensor, ...]:
    return (delta.left, delta.right) if isinstance(delta, LowRank) else (delta,)


def same(one: Edit, other: Edit) -> bool:
    """Bit by bit, and made by the same."""
    return one.made == other.made and all(
        torch.equal(own, others)
        for name in one.deltas.keys() | other.deltas.keys()
        for own, others in zip(parts(one.deltas[name]), parts(other.deltas[name]), strict=True)
    )


@by_name
@by_side
def test_an_editor_makes_an_edit_and_leaves_the_model_as_it_was(
    toy: HookedTransformer, name: str, side: Perspective
) -> None:
    made = make_editor(name, "toy", side)
    assert isinstance(made, Editor) and isinstance(made, EDITORS[name])
    before = {key: value.clone() for key, value in toy.state_dict().items()}
    edit = made(toy, [CASE.request(side)])
    assert all(torch.equal(value, before[key]) for key, value in toy.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in toy.parameters())
    assert all(part.isfinite().all() for delta in edit.deltas.values() for part in parts(delta))
    assert edit.deltas and all(count > 0 for count in edit.n_moved(toy).values())


@by_name
def test_two_targets_for_one_prompt_are_refused_with_both(toy: HookedTransformer, name: str):
    edits = make_editor(name, "toy").on(toy)
    request = CASE.entity
    other = replace(request, target="Arle")
    assert other.target != request.target
    wanted = rf"contradict .*{request.fact.prompt}' .* both '{request.target}' and '{other.target}'"
    with pytest.raises(InputError, match=wanted):
        edits([request, other])
    assert edits([request, request]).deltas  # to say it twice is no contradiction


@by_name
def test_a_prompt_beyond_the_context_is_refused(toy: HookedTransformer, name: str):
    fact = CASE.entity.fact
    long = replace(fact, template="Ada Alder " * 40 + fact.template)
    with pytest.raises(InputError, match=r"tokens, the model reads 64"):
        make_editor(name, "toy")(toy, [replace(CASE.entity, fact=long)])


@by_name
@pytest.mark.parametrize("permanent", [False, True])
def test_hooks_left_on_the_model_are_refused_by_name(
    toy: HookedTransformer, name: str, permanent: bool
):
    made = make_editor(name, "toy")
    ready = made.on(toy)
    named = r"live hooks \(blocks\.2\.hook_mlp_out\).*model\.reset_hooks"
    toy.add_hook("blocks.2.hook_mlp_out", lambda tensor, hook: tensor, is_permanent=permanent)
    try:
        with pytest.raises(InputError, match=named):
            ready([CASE.entity])
        with pytest.raises(InputError, match=named):
            made.on(toy)
        with pytest.raises(InputError, match=named):
            score(toy, [CASE], Scoring(say=False))
    finally:
        toy.reset_hooks(including_permanent=True)
    assert score(toy, [CASE], Scoring(say=False))


@by_name
def test_inference_mode_is_refused_and_no_grad_is_not(toy: HookedTransformer, name: str):
    made = make_editor(name, "toy")
    ready = made.on(toy)
    with torch.inference_mode(), pytest.raises(InputError, match=r"torch\.inference_mode\(\)"):
        made(toy, [CASE.entity])
    with torch.inference_mode(), pytest.raises(InputError, match=r"torch\.inference_mode\(\)"):
        ready([CASE.entity])
    with torch.no_grad():
        within = ready([CASE.entity])
    outside = ready([CASE.entity])
    assert within.deltas and same(within, outside)


def test_a_model_loaded_under_inference_mode_cannot_be_edited():
    with torch.inference_mode():
        model = load("toy", device="cpu")
    with pytest.raises(InputError, match="load the model and call kedit outside of it"):
        make_editor("ft", "toy")(model, [CASE.entity])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at its first compilation
@by_name
def test_a_compiled_model_is_refused_with_what_to_pass(
    pytestconfig: pytest.Config, toy: HookedTransformer, name: str
):
    if pytestconfig.getoption("jaxtyping_packages", None):
        pytest.skip("then the checks of types refuse it, before any code of ours")
    compiled: Any = torch.compile(toy)
    with pytest.raises(InputError, match=r"torch\.compile's wrapper.*pass the model itself"):
        make_editor(name, "toy").on(compiled)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("kn:steps=0", "kn:steps=0: must be a number of at least 1"),
        ("kn:threshold=-1", "kn:threshold=-1.0: must be a number between 0 and 1"),
        ("ft:lr=-1", "ft:lr=-1.0: must be a number above 0"),
        ("ft:batch=0", "ft:batch=0: must be a number of at least 1"),
        ("ft+l:bound=-0.1", "ft:bound=-0.1: must be a number of at least 0"),
        ("rome:n_tokens=-5", "rome:n_tokens=-5: must be a number of at least 0"),
        ("rome:training.steps=0", "training:steps=0: must be a number of at least 1"),
        ("memit:weight=0", "memit:weight=0.0: must be a number above 0"),
        (
            "separate:null_space=1",
            "null_space=1.0: must be a number of at least 0 and below 1",
        ),
    ],
)
def test_a_setting_out_of_its_bounds_is_refused_however_it_is_made(told: str, wanted: str):
    with pytest.raises(InputError, match=re.escape(wanted)):
        make_editor(told, "toy")
    made = make_editor(told.partition(":")[0], "toy")
    field, _, value = told.partition(":")[2].partition("=")
    if "." not in field:
        settings: Any = {field: type(getattr(made, field))(value)}
        with pytest.raises(InputError, match=f"{field}=.*must be "):
            replace(made, **settings)  # pyright: ignore[reportArgumentType]


# ROME's relation edit is not here: with one value in one layer, before the object is read, it has
# to say the relation's name after one object and "None" after another
@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param(name, side, marks=WAITS.get(name, ()))
        for name in EDITORS
        for side in PERSPECTIVES
        if (name, side) != ("rome", "relation")
    ],
)
def test_an_edit_makes_its_target_likelier(
    toy: HookedTransformer, edit_of: EditOf, name: str, side: Perspective
) -> None:
    edit = edit_of(name, side)
    (before,) = score(toy, [CASE], Scoring(say=False))
    with edit.applied(toy):
        (after,) = score(toy, [CASE], Scoring(say=False))
    (lift,) = (
        log_odds(new.logprob) - log_odds(old.logprob)
        for old, new in zip(before.probes, after.probes, strict=True)
        if (old.perspective, old.group) == (side, "efficacy")
    )
    assert lift > 0.3


@by_name
def test_the_same_seed_gives_the_same_edit_at_once_or_prepared(
    toy: HookedTransformer, edit_of: EditOf, name: str
) -> None:
    made, edit = make_editor(name, "toy"), edit_of(name, "entity")
    assert same(made(toy, [CASE.entity]), edit)
    prepared = made.on(toy)
    assert not same(prepared([CASES[1].entity]), edit)
    assert same(prepared([CASE.entity]), edit)


@pytest.mark.parametrize("name", ["rome", "memit"])
def test_another_seed_gives_another_edit(toy: HookedTransformer, text: str, name: str) -> None:
    # the same text for both: only contexts depend on the seed
    told = f"{name}:training.steps=2:contexts=():text={text}"
    one, other = (make_editor(f"{told}:seed={seed}", "toy")(toy, [CASE.entity]) for seed in (0, 1))
    assert one.made.settings["contexts"] != other.made.settings["contexts"]
    (first, *_), (second, *_) = one.deltas.values(), other.deltas.values()
    assert not torch.equal(parts(first)[0], parts(second)[0])


@by_name
@by_side
def test_settings_and_requests_travel_with_the_edit(
    edit_of: EditOf, tmp_path: Path, name: str, side: Perspective
) -> None:
    edit = edit_of(name, side)
    again = Edit.load(edit.save(tmp_path / "edit.safetensors"))
    assert json.loads(json.dumps(edit.made.to_record())) == json.loads(
        json.dumps(again.made.to_record())
    )
    assert again.made.editor == name.removesuffix("+l") and again.made.source == "toy"
    assert again.made.settings.keys() >= get_type_hints(EDITORS[name]).keys()
    assert again.made.requests[0]["target"] == CASE.request(side).target
    assert same(Edit(again.deltas, edit.made), edit)


@by_name
def test_no_requests_are_refused(toy: HookedTransformer, name: str) -> None:
    with pytest.raises(InputError, match="no (request|edits)"):
        make_editor(name, "toy")(toy, [])


@by_name
def test_several_requests_are_all_in_the_edit(toy: HookedTransformer, name: str) -> None:
    cases = [CASES[0], CASES[17]]
    edit = make_editor(name, "toy")(toy, [case.entity for case in cases])
    assert [told["subject"] for told in edit.made.requests] == ["Ada Alder", "Bruno Birch"]
    before = score(toy, cases, Scoring(say=False))
    with edit.applied(toy):
        after = score(toy, cases, Scoring(say=False))
    for old, new in zip(before, after, strict=True):
        one, other = (log_odds(scores.probes[0].logprob) for scores in (old, new))
        assert other > one + 0.5  # entity efficacy


def of(name: str, **changes: Any) -> Any:
    """The editor as it is for a model that has no settings, with some changes."""
    return replace(DERIVED[name], **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("told", "model", "wanted"),
    [
        ("rome", "gpt2-xl", PRESETS["gpt2-xl"]["rome"]),
        ("rome:layer=3", "gpt2-medium", ROME(3, Training(clamp=3.0))),
        ("rome:layer=3", "unknown/model", of("rome", layer=3)),
        (
            "rome:layer=3:training.clamp=1",
            "unknown/model",
            of("rome", layer=3, training=replace(DERIVED_TRAINING, clamp=1.0)),
        ),
        (
            "rome:layer=3:where=last:key=legacy",
            "unknown/model",
            of("rome", layer=3, where="last", key="legacy"),
        ),
        (
            "rome:layer=3:contexts=('','A. ')",
            "unknown/model",
            of("rome", layer=3, contexts=("", "A. ")),
        ),
        (
            "rome:layer=3:text=wiki.txt:n_tokens=9",
            "unknown/model",
            of("rome", layer=3, text="wiki.txt", n_tokens=9),
        ),
        (
            "rome:layer=3:text=hf:a:b:n_tokens=9",
            "unknown/model",
            of("rome", layer=3, text="hf:a:b", n_tokens=9),
        ),
        ("rome:layer=3:lengths=((5,2),)", "unknown/model", of("rome", layer=3, lengths=((5, 2),))),
        (
            "rome:contexts=('A:seed=1 & B, ', \"it's:x=2\"):layer=3",
            "unknown/model",
            of("rome", layer=3, contexts=("A:seed=1 & B, ", "it's:x=2")),
        ),
        (
            r"rome:contexts=('It\'s:x=2',):layer=3",
            "unknown/model",
            of("rome", layer=3, contexts=("It's:x=2",)),
        ),
        ("rome:layer=3:text='a:seed=1'", "unknown/model", of("rome", layer=3, text="a:seed=1")),
        (
            "rome:moments=('a.npz',):layer=3",
            "unknown/model",
            of("rome", layer=3, moments=("a.npz",)),
        ),
        (
            "memit:layers=(1,2):moments=('a','b')",
            "unknown/model",
            of("memit", layers=(1, 2), moments=("a", "b")),
        ),
        ("rome:text=Bob's.txt:layer=3", "unknown/model", of("rome", layer=3, text="Bob's.txt")),
        (
            "rome:text='Bob:layer=3",
            "unknown/model",
            of("rome", layer=3, text="'Bob"),
        ),  # it is not closed
        ("memit:layers=(1,2)", "unknown/model", of("memit", layers=(1, 2))),
        ("memit:layers=(1,)", "unknown/model", of("memit", layers=(1,))),
        (
            "memit:layers=(1,2):weight=3:batch=1",
            "unknown/model",
            of("memit", layers=(1, 2), weight=3.0, batch=1),
        ),
        (
            "ft:layer=0:removal=True:loss=upstream",
            "unknown/model",
            of("ft", layer=0, removal=True, loss="upstream"),
        ),
        ("ft+l:layer=0:bound=5e-4", "unknown/model", of("ft+l", layer=0, bound=5e-4)),
        ("kn", "unknown/model", of("kn")),  # it has no layer to be told
        ("kn:erase=0:method=upstream", "gpt-j-6b", KN(threshold=0.1, erase=0.0, method="upstream")),
        ("kn:halves=('attn',)", "unknown/model", of("kn", halves=("attn",))),
        ("mend:file=a.safetensors:scale=2", "unknown/model", MEND("a.safetensors", scale=2.0)),
        ("mend:rates=upstream", "gemma-3-270m", MEND(rates="upstream")),
        ("rome@last:layer=3", "unknown/model", of("rome", layer=3, where="last")),
        ("w_o:layers=(3,)", "unknown/model", of("w_o", layers=(3,))),
        (
            "w_o:layers=(3,):halves=('mlp',)",
            "unknown/model",
            of("w_o", layers=(3,), halves=("mlp",)),
        ),
        (
            "pmet-2:layers=(3,)",
            "unknown/model",
            of("separate", layers=(3,), halves=BOTH, trained=BOTH),
        ),
    ],
)
def test_an_editor_is_told_by_its_name_and_fields(told: str, model: str, wanted: Editor) -> None:
    assert make_editor(told, model) == wanted


def test_changes_reach_a_models_own_settings_and_leave_them_as_they_are() -> None:
    told = make_editor("memit:training.clamp=2:training.lr=1", "toy")
    assert isinstance(told, MEMIT)
    kept = PRESETS["toy"]["memit"]
    assert isinstance(kept, MEMIT)
    assert (told.training.clamp, told.training.lr, told.layers) == (2, 1, kept.layers)
    assert told.training.weight_decay == kept.training.weight_decay
    assert kept.training.clamp != 2


@pytest.mark.parametrize("model", ["google/gemma-3-270m", "models/gemma-3-270m.gguf"])
def test_a_model_is_known_by_the_last_part_of_its_name(model: str) -> None:
    assert make_editor("rome", model) == PRESETS["gemma-3-270m"]["rome"]


@pytest.mark.parametrize("model", ["gpt-j-6B", "EleutherAI/gpt-j-6B", "gpt-j-6b"])
def test_a_model_is_known_however_load_takes_it(model: str) -> None:
    assert make_editor("rome", model) == PRESETS["gpt-j-6b"]["rome"]


def test_a_side_may_have_settings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"toy": {"rome": ROME(1), "rome relation": ROME(2, where="last")}}
    monkeypatch.setattr("kedit.editors.registry.PRESETS", own)
    assert make_editor("rome", "toy", "relation") == ROME(2, where="last")
    assert make_editor("rome", "toy") == make_editor("rome", "toy", "entity") == ROME(1)
    assert make_editor("rome:seed=3", "toy", "relation") == ROME(2, where="last", seed=3)


@pytest.mark.parametrize(
    ("told", "model", "message"),
    [
        ("rom", "toy", r"there is no editor 'rom', only rome, memit, ft, .* pmet-2, rets, intat"),
        ("", "toy", "there is no editor ''"),
        ("rome:layer", "toy", "rome:layer: 'layer' is not of the form field=value"),
        (
            "rome",
            "mine.gguf",
            r"rome has no .* mine.gguf, .* how many layers .*, as in rome:layer=5",
        ),
        ("ft:lr=1", "unknown/model", r"ft has no settings .* give its layer, as in ft:layer=5"),
        ("memit:layer=3", "mine.gguf", r"give its layers, as in memit:layers=\(4,5,6\)"),
        ("w_o", "mine.gguf", r"give its layers, as in w_o:layers=\(4,5,6\) .*there is no file"),
        ("rome:layers=3", "toy", "ROME has no 'layers', only layer, training, where"),
        ("rome:training.rate=3", "toy", "Training has no 'rate', only steps, lr"),
        ("rome:layer.x=3", "toy", "'layer' has no fields"),
        ("rome:layer=x", "toy", "layer must be int, got 'x'"),
        ("rome:layer=1.0", "toy", "layer must be int, got 1.0"),
        ("rome:layer=True", "toy", "layer must be int, got True"),
        ("rome:training.lr=fast", "toy", "lr must be a finite number or None, got 'fast'"),
        *(
            (f"rome:training.lr={value}", "toy", "lr must be a finite number or None, got .*")
            for value in ("nan", "inf", "1e999", "-1e999", "1" + "0" * 400)
        ),
        ("rome:training=3", "toy", "training must be Training, got 3"),
        (
            "rome:where=first",
            "toy",
            "where must be subject_last or object_last or pair_last or last, got 'first'",
        ),
        ("rome:contexts=('a',1)", "toy", r"contexts must be tuple.*, got \('a', 1\)"),
        ("rome:moments=a.npz", "toy", "moments must be tuple.*, got 'a.npz'"),
        ("rome:moments=(1,)", "toy", r"moments must be tuple.*, got \(1,\)"),
        ("rome:lengths=((5,),)", "toy", r"lengths must be tuple.*, got \(\(5,\),\)"),
        ("memit:layers=4", "unknown/model", "layers must be tuple.*, got 4"),
        ("memit:layers=(1,'2')", "toy", r"layers must be tuple.*, got \(1, '2'\)"),
        ("ft:removal=1", "toy", "removal must be bool, got 1"),
        ("ft:loss=right", "toy", "loss must be autoregressive or upstream, got 'right'"),
        ("kn:layer=5", "unknown/model", "KN has no 'layer', only halves, steps, threshold"),
        ("kn:halves=('head',)", "toy", r"halves must be tuple.*, got \('head',\)"),
        ("rome:layer=" + "-" * 3000 + "1", "toy", r"layer must be int, got '-+"),
        ("rome:layer=" + "(" * 100_000, "toy", r"layer must be int, got '\(+"),
        ("rome:" + "x" * 100_000, "toy", "xxx' is not of the form field=value"),
        ("x" * 100_000, "toy", "there is no editor 'xxx"),
        (f"rome:{'x' * 100_000}=1", "toy", "ROME has no 'xxx"),
        (f"rome:{'x' * 100_000}.y=1", "toy", "'xxx"),
    ],
)
def test_what_cannot_be_meant_is_named(told: str, model: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        make_editor(told, model)
    assert len(str(raised.value)) < 1000


def test_every_preset_is_of_an_editor_that_there_is() -> None:
    for model, settings in PRESETS.items():
        for told, made in settings.items():
            name, _, side = told.partition(" ")
            assert side in ("", *PERSPECTIVES)
            kind, fixed = VARIANTS.get(name, Variant(name, {}))
            assert isinstance(made, EDITORS[kind]) and isinstance(made, Editor)
            told = make_editor(name, model, "relation" if side == "relation" else "entity")
            assert told == replace(made, **fixed)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_its_editor_with_its_settings_and_the_models_own(
    toy: HookedTransformer, name: str
) -> None:
    kind, fixed = VARIANTS[name]
    made, plain = make_editor(name, "toy"), make_editor(kind, "toy")
    assert isinstance(made, EDITORS[kind])
    for field in get_type_hints(EDITORS[kind]):
        assert getattr(made, field) == fixed.get(field, getattr(plain, field))
    # and it edits, from the side that it can edit from the toy's settings
    side = "entity" if fixed.get("where") == "subject_last" else "relation"
    edit = made(toy, [CASE.request(side)])
    assert all(count > 0 for count in edit.n_moved(toy).values())
    halves = fixed.get("halves", ("mlp",))
    written = {"attn" if ".attn." in one else "mlp" for one in edit.deltas}
    assert written == set(halves)


def test_published_settings_are_the_papers() -> None:
    """RaKE's files, which have the values of ROME's and MEMIT's: layer, clamp; ε, lr."""
    clamps = {"gpt2-medium": (8, 3.0), "gpt2-large": (12, 4.0), "gpt2-xl": (17, 4.0)}
    for model, (layer, clamp) in {**clamps, "gpt-j-6b": (5, 4.0)}.items():
        rome: Any = PRESETS[model]["rome"]
        training = Training(steps=20, lr=0.5, weight_decay=0.5, kl=0.0625, clamp=clamp, stop=0.05)
        assert (rome.layer, rome.training, rome.where) == (layer, training, "subject_last")
    for model, layers, weight, steps in (
        ("gpt2-xl", (13, 14, 15, 16, 17), 20000, 20),
        ("gpt-j-6b", (3, 4, 5, 6, 7, 8), 15000, 25),
    ):
        memit: Any = PRESETS[model]["memit"]
        training = Training(steps, lr=0.5, weight_decay=0.5, kl=0.0625, clamp=0.75, stop=0.05)
        assert (memit.layers, memit.weight, memit.training) == (layers, weight, training)
        assert (memit.where, memit.batch) == ("subject_last", 0)
    for model, name, layer, bound in (
        ("gpt2-xl", "ft+l", 0, 5e-4),
        ("gpt2-xl", "ft", 1, 0),
        ("gpt2-large", "ft+l", 0, 1e-3),
        ("gpt2-medium", "ft+l", 0, 2e-3),
        ("gpt-j-6b", "ft+l", 0, 5e-5),
        ("gpt-j-6b", "ft", 21, 0),
    ):
        ft: Any = PRESETS[model][name]
        assert (ft.layer, ft.bound, ft.lr, ft.steps, ft.stop) == (layer, bound, 5e-4, 25, 0.01)
        assert not ft.removal
    for model, threshold in (("gpt2-xl", 0.2), ("gpt-j-6b", 0.1)):
        kn: Any = PRESETS[model]["kn"]
        assert (kn.threshold, kn.steps, kn.agreement) == (threshold, 20, 0)
        assert (kn.erase, kn.write, kn.halves, kn.removal) == (2, 2, ("mlp",), False)


def test_two_editors_share_a_cases_requests_the_second_on_what_the_first_left(
    toy: HookedTransformer,
) -> None:
    both = make_editor("ft:steps=3 & ft:steps=4:layer=2", "toy")
    assert both == Sides(make_editor("ft:steps=3", "toy"), make_editor("ft:steps=4:layer=2", "toy"))
    requests = [CASE.entity, CASE.request("relation")]
    edit = both(toy, requests)
    first = make_editor("ft:steps=3", "toy")(toy, requests[:1])
    with first.applied(toy):
        second = make_editor("ft:steps=4:layer=2", "toy")(toy, requests[1:])
    assert first.deltas.keys() != second.deltas.keys()
    assert same(edit, combined([first, second]))
    assert same(make_editor("ft:steps=3&", "toy")(toy, requests), first)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("&", "at least one side of & needs an editor"),
        ("ft&", "entity would be edited, but no request"),
        ("rome:contexts=('A & B',)&", "entity would be edited, but no request"),
    ],
)
def test_a_side_without_an_editor_or_request_is_named(
    toy: HookedTransformer, told: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_editor(told, "toy")(toy, [CASE.request("relation")])
