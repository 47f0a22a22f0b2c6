"""What an editor asks the model before it writes: texts, positions and keys of each demand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.facts import Demand, EditRequest
from kedit.prompts import KeyPosition, answer_ids, device, located
from kedit.reading import Tokens, padded
from kedit.value import Row
from kedit.writes import WriteSite, read_keys

ESSENCE = "{} is a"  # whose next-token distribution is to stay (Meng et al. 2022, equation 4)


def groups(model: HookedTransformer, request: EditRequest, where: KeyPosition) -> tuple[int, ...]:
    """For each of the request's demands, the number of its key: equal texts up to the position
    have one key, and one key cannot write two things.
    """
    openings = []
    for demand in request.demands:
        tokens, pos = located(model, demand.fact, where, demand.mentioned)
        openings.append(tokens[: pos + 1])
    distinct = list(dict.fromkeys(openings))
    return tuple(distinct.index(opening) for opening in openings)


def wanted_rows(
    model: HookedTransformer,
    demand: Demand,
    contexts: Sequence[str],
    where: KeyPosition,
    group: int,
    targets: Tokens = (),
    weight: float = 1.0,
) -> list[Row]:
    """The demand behind each context.

    Args:
        targets: token ids in place of the demand's own target.
    """
    targets = targets or answer_ids(model, demand.target)
    rows = []
    for context in contexts:
        tokens, pos = located(model, demand.fact, where, demand.mentioned, context)
        rows.append(Row((*tokens, *targets[:-1]), pos, group, targets, weight))
    return rows


def staying_row(model: HookedTransformer, demand: Demand) -> Row:
    """ "S is a", the subject's deltas entering at its last token."""
    essence = replace(demand.fact, template=ESSENCE, relation_words=())
    return Row(*located(model, essence, "subject_last"))


def keys(
    model: HookedTransformer,
    sites: Sequence[WriteSite],
    demand: Demand,
    contexts: Sequence[str],
    where: KeyPosition,
) -> Mapping[WriteSite, Float[Tensor, "context d_key"]]:
    """The demand's key at each site, behind each context."""
    found = [located(model, demand.fact, where, demand.mentioned, text) for text in contexts]
    read = read_keys(model, padded([tokens for tokens, _ in found], device(model)), list(sites))
    at = [pos for _, pos in found]
    return {site: acts[range(len(found)), at] for site, acts in read.items()}
