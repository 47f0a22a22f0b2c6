"""Keeps what a model's first layers make of texts, while edits change only the layers above.

An edit of layer L and higher layers leaves the residual that enters layer L as it is, and so the
keys and values below. When the same text is read under several edits, only the layers from the
lowest edited one on have to run again:

    layer 3 | run | run | run |     of the edited model
    layer 2 | run | run | run |     the lowest edited layer
    - - - - - - - - - - - - - -     the residual that enters layer 2 is kept
    layer 1 | k v | k v | k v |     kept keys and values
    layer 0 | k v | k v | k v |
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.forward.packed import LayerCache

KEPT_BYTES = 2**28  # most bytes of kept states, over all texts
# runs consecutive layers on a text, from the packed residual before the first of them (None: from
# its tokens); returns the residual after the last one, and each layer's keys and values
RunLayers = Callable[[Tensor | None, range], tuple[Tensor, LayerCache, LayerCache]]
# the model's lowest edited layer, and a digest of its weights without the edits
Unedited = Callable[[HookedTransformer], tuple[int, str]]


@dataclass(frozen=True)
class Below:
    """What the first layers make of a text.

    Args:
        resids: by layer, the packed residual that enters it.
        keys, values: of the first layers; empty if they are not needed.
    """

    resids: dict[int, Float[Tensor, "token d_model"]] = field(default_factory=dict)
    keys: LayerCache = ()
    values: LayerCache = ()

    @property
    def n_bytes(self) -> int:
        return sum(each.nbytes for each in (*self.resids.values(), *self.keys, *self.values))


class KeptStates:
    """States below the lowest edited layer, by text; the texts that were not used for longest go.

    At each use it asks which layers are unedited at this moment, and whether the unedited weights
    are those that the states were computed with. So states of another model, of other weights, or
    of an edited layer are never returned.
    """

    def __init__(self, unedited: Unedited, max_bytes: int = KEPT_BYTES) -> None:
        self._unedited, self._max_bytes = unedited, max_bytes
        self._of: tuple[object, ...] = ()  # the model and the weights that all states belong to
        self._layers: set[int] = set()  # the lowest edited layers so far
        self._texts: dict[Hashable, Below] = {}  # the text that was used last is the last one

    def below(
        self, model: HookedTransformer, text: Hashable, run: RunLayers, cache: bool = True
    ) -> tuple[int, Tensor, LayerCache, LayerCache]:
        """Runs the layers below the lowest edited one, or returns what is kept of an earlier run.

        Args:
            text: names the text and how it is put into a batch: equal names must stand for
                forwards whose results are equal to the bit.
            run: runs layers on this text.
            cache: whether keys and values are needed, too.

        Returns:
            The lowest edited layer, the packed residual that enters it, and the keys and values of
            all layers below it (none without `cache`).
        """
        layer, weights = self._unedited(model)
        if layer == 0:  # even the embedding may be edited
            return layer, *run(None, range(0))
        embedding = model.embed.W_E  # the digest is the same in all dtypes and on all devices
        of = (model, weights, embedding.dtype, embedding.device)
        if self._of != of:
            self._texts.clear()
            self._of = of
        self._layers.add(layer)
        known = self._texts.pop(text, Below())
        start = max((one for one in known.resids if one <= layer), default=0)
        # the residuals that enter other layers are needed by other edits of the same text
        for stop in sorted(one for one in self._layers if start < one <= layer):
            resid, keys, values = run(known.resids.get(start), range(start, stop))
            if cache and stop > len(known.keys):
                keys, values = known.keys[:start] + keys, known.values[:start] + values
            else:
                keys, values = known.keys, known.values
            known, start = Below(known.resids | {stop: resid}, keys, values), stop
        self._texts[text] = known
        for oldest in list(self._texts):
            if sum(each.n_bytes for each in self._texts.values()) <= self._max_bytes:
                break
            del self._texts[oldest]
        return layer, known.resids[layer], known.keys[:layer], known.values[:layer]
