"""How facts are traced, and which were left out: what a result of traces says of its making."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kedit.bounds import RULES, Choice, require_in_bounds
from kedit.errors import InputError
from kedit.journal import UNUSABLE

KEPT_SHARE = 0.5  # of its clean probability: an answer that keeps more was hardly corrupted
# why a fact, or one part of it, is not in the averages
WRONG = "answered otherwise"  # the model does not know the fact
NO_REPLACEMENT = "no replacement"
WEAK = "keeps more than half of its answer's probability"
_IN_WORDS = {
    WRONG: "that the model answers otherwise",
    UNUSABLE: "that could not be used",
    NO_REPLACEMENT: "without words of as many tokens to put in the place of theirs",
    WEAK: "whose answer keeps more than half of its probability (--keep-all keeps them)",
}


def sites() -> tuple[str, ...]:
    """All that can be restored: sites, and residuals with modules severed."""
    rule = RULES["sites"]
    assert isinstance(rule, Choice)
    return rule.words


SITES = sites()


@dataclass(frozen=True)
class Tracing:
    """How facts are traced.

    Args:
        corrupt: whose words are corrupted.
        by: other words of the same token length (one run a fact), or noise on the embeddings.
        noise: the rule, as `probes.corrupt.noise_rule` has it.
        samples: noise samples a fact; a replacement takes one.
        keep_all: average over facts too whose answer keeps more than half of its probability when
            words are replaced by others.
        answer: "token", the first that tells the object from its rival; or the "whole" object.
        sites: any of SITES.
        window: layers of MLP or attention outputs restored together; 10 as Meng et al.'s code.
        screen: share of a fact's cells that is restored, chosen by attribution; 0 for all.
        screen_steps: points over which the screen's gradient is the mean.
        seed: of the order of facts, of replacements, noise and the bootstrap.

    Raises:
        InputError: one of them is out of its bounds.
    """

    corrupt: Literal["both", "relation", "subject"] = "both"
    by: Literal["replacement", "noise"] = "replacement"
    noise: str = "s3"
    samples: int = 10
    keep_all: bool = False
    answer: Literal["token", "whole"] = "token"
    sites: tuple[str, ...] = SITES
    window: int = 10
    screen: float = 0.0
    screen_steps: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        require_in_bounds(self)
        if not self.sites:
            raise InputError(f"no sites are told: any of {', '.join(SITES)}")

    @property
    def parts(self) -> tuple[str, ...]:
        """Whose words are corrupted, one after the other."""
        return ("relation", "subject") if self.corrupt == "both" else (self.corrupt,)

    @property
    def corruption(self) -> str:
        """What was done to the corrupted words, in words."""
        if self.by == "replacement":
            return "words replaced by others"
        return f"words under noise ({self.noise})"

    def corrupts(self, kept_share: float) -> bool:
        """Whether a fact's words are corrupted enough for it to be in the averages.

        Replacements must take at least half of the answer's probability. Noise is an average over
        samples, and Meng et al.'s protocol leaves no fact out.

        Args:
            kept_share: of the answer's clean probability.
        """
        return self.keep_all or self.by == "noise" or kept_share <= KEPT_SHARE


@dataclass(frozen=True)
class LeftOut:
    """A fact, or one part of it, that was not traced.

    Args:
        why: the kind of reason: WRONG, UNUSABLE or NO_REPLACEMENT.
        reason: in words.
        part: whose words could not be corrupted; "" for the whole fact.
    """

    prompt: str
    why: str
    reason: str
    part: str = ""


@dataclass(frozen=True)
class Counts:
    """How many facts are averaged, and how many are not.

    Args:
        traced, relations: facts that are averaged, and their relations, by corrupted part.
        left_out: facts by reason.
        left_out_of: facts that one part does not have, by part and reason.
    """

    traced: Mapping[str, int]
    relations: Mapping[str, int]
    left_out: Mapping[str, int]
    left_out_of: Mapping[str, Mapping[str, int]]

    def __str__(self) -> str:
        """How many facts are left out, and why."""
        told = []
        groups = {"": self.left_out}
        groups |= {f"of the {part}'s ": own for part, own in self.left_out_of.items()}
        for whose, reasons in groups.items():
            counts = [f"{n} {_IN_WORDS[why]}" for why, n in reasons.items() if n]
            if counts:
                told.append(f"{whose}{', '.join(counts)}")
        lost = sum(reasons[NO_REPLACEMENT] for reasons in groups.values())
        if lost > sum(self.traced.values()):
            told.append("--by noise needs no other words")
        return f"Facts left out: {'; '.join(told) or 'none'}"
