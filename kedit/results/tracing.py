"""Settings of a tracing study, and counts of the facts that were traced or left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kedit.bounds import RULES, Choice, require_in_bounds
from kedit.errors import InputError
from kedit.journal import UNUSABLE

KEPT_SHARE = 0.5  # an answer that keeps more of its clean probability was hardly corrupted
# why a fact, or one part of it, is not in the averages
WRONG = "answered otherwise"  # the model does not know the fact
NO_REPLACEMENT = "no replacement"
WEAK = "keeps more than half of its answer's probability"
_IN_WORDS = {
    WRONG: "that the model does not know",
    UNUSABLE: "that could not be used",
    NO_REPLACEMENT: "for which there are no replacement words with the same number of tokens",
    WEAK: "whose answer keeps more than half of its probability (--keep-all includes them)",
}


def sites() -> tuple[str, ...]:
    """Names of all sites that can be restored, including residuals with a module severed."""
    rule = RULES["sites"]
    assert isinstance(rule, Choice)
    return rule.words


SITES = sites()


@dataclass(frozen=True)
class Tracing:
    """Settings with which facts are traced.

    Args:
        corrupt: whose words are corrupted: "relation", "subject", or "both", one after the other.
        by: "replacement": words are replaced by others with the same number of tokens, in one
            corrupted run per fact; "noise": noise is added to the embeddings.
        noise: size of the noise; see `probes.corrupt.noise_rule` for the format.
        samples: number of noise samples per fact; a replacement needs only one.
        keep_all: whether to average also over facts whose answer keeps more than half of its
            probability when words are replaced.
        answer: what is scored: "token", the first token that distinguishes the object from its
            rival, or the "whole" object.
        sites: the sites to restore, any of SITES.
        window: number of layers whose MLP or attention outputs are restored together; 10 in Meng
            et al.'s code.
        screen: share of a fact's cells that is restored, chosen by attribution; 0 restores all.
        screen_steps: number of points over which the screen's gradient is averaged.
        seed: seed of the order of facts, of replacements, of noise and of the bootstrap.

    Raises:
        InputError: a setting is out of its bounds.
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
            raise InputError(f"sites is empty: needs at least one of {', '.join(SITES)}")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts whose words are corrupted, one after the other."""
        return ("relation", "subject") if self.corrupt == "both" else (self.corrupt,)

    @property
    def corruption(self) -> str:
        """What was done to the corrupted words, as a phrase."""
        if self.by == "replacement":
            return "words replaced by others"
        return f"words under noise ({self.noise})"

    def corrupts(self, kept_share: float) -> bool:
        """Whether a corruption changes a fact's answer enough for the fact to be averaged.

        A replacement must remove at least half of the answer's probability. With noise no fact is
        left out: each score is a mean over samples, and Meng et al. leave out none either.

        Args:
            kept_share: the answer's probability in the corrupted run divided by its clean one.
        """
        return self.keep_all or self.by == "noise" or kept_share <= KEPT_SHARE


@dataclass(frozen=True)
class LeftOut:
    """A fact, or one part of it, that was not traced.

    Args:
        prompt: prompt of the fact.
        why: the kind of reason: WRONG, UNUSABLE or NO_REPLACEMENT.
        reason: the reason in words.
        part: whose words could not be corrupted; "" for the whole fact.
    """

    prompt: str
    why: str
    reason: str
    part: str = ""


@dataclass(frozen=True)
class Counts:
    """How many facts are averaged, and how many are left out.

    Args:
        traced: number of averaged facts, by corrupted part.
        relations: number of relations of these facts, by corrupted part.
        left_out: number of facts that are left out altogether, by reason.
        left_out_of: number of facts that are left out of one part, by part and reason.
    """

    traced: Mapping[str, int]
    relations: Mapping[str, int]
    left_out: Mapping[str, int]
    left_out_of: Mapping[str, Mapping[str, int]]

    def __str__(self) -> str:
        """How many facts are left out, and why, as a phrase."""
        phrases = []
        groups = {"": self.left_out}
        groups |= {f"{part} corrupted: ": reasons for part, reasons in self.left_out_of.items()}
        for group, reasons in groups.items():
            counts = [f"{n} {_IN_WORDS[why]}" for why, n in reasons.items() if n]
            if counts:
                phrases.append(f"{group}{', '.join(counts)}")
        lost = sum(reasons[NO_REPLACEMENT] for reasons in groups.values())
        if lost > sum(self.traced.values()):
            phrases.append("--by noise needs no replacement words")
        return f"Facts left out: {'; '.join(phrases) or 'none'}"
