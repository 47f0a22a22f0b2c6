"""The worked example of patch_prompts, which fills in texts that are not given."""

from dataclasses import replace
from typing import Any, NamedTuple


class Example(NamedTuple):
    """A clean and a corrupted text, with the answers that are compared."""

    clean: str
    corrupted: str
    answer: str
    foil: str


EXAMPLE = Example(
    clean="When John and Mary went to the store, John gave a drink to",
    corrupted="When John and Mary went to the store, Mary gave a drink to",
    answer="Mary",
    foil="John",
)
TOY_EXAMPLE = Example(
    clean="The birthplace of Ada Alder is",
    corrupted="The birthplace of Inés Ironwood is",
    answer="Corum",
    foil="Brock",
)
MASKED_EXAMPLE = Example(
    clean="The profession of Ada Alder is [MASK].",
    corrupted="The profession of Bruno Birch is [MASK].",
    answer="carpenter",
    foil="painter",
)


def settled(config: Any) -> Any:
    """Fills in the example's texts if a configuration of patch_prompts has none.

    Raises:
        InputError: the clean or the corrupted text is missing, but not both.
    """
    from kedit.errors import InputError
    from kedit.models.outline import MASKED_TOYS

    clean, corrupted = config.clean.strip(), [text for text in config.corrupted if text.strip()]
    if bool(clean) != bool(corrupted):
        given, missing = ("--clean", "--corrupted") if clean else ("--corrupted", "--clean")
        raise InputError(f"{missing}: a text is needed, because {given} is given")
    if clean:
        return config
    example = TOY_EXAMPLE if config.model == "toy" else EXAMPLE
    if config.model in MASKED_TOYS:
        example = MASKED_EXAMPLE
    config = replace(config, clean=example.clean, corrupted=[example.corrupted])
    if config.answer or config.own_metric:
        return config
    return replace(config, answer=example.answer, foil=config.foil or example.foil)
