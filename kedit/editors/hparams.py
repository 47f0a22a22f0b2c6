"""Reads the files of settings that come with the code of ROME, MEMIT and EasyEdit, without torch.

Those of ROME and MEMIT are JSON files such as hparams/ROME/gpt2-xl.json; EasyEdit has YAML files
with the same fields and `alg_name`. A file stands wherever an editor's name does
(`kedit.editors.specs.read_spec`). It sets layers, token, steps, rates and bounds; the methods are
kedit's corrected ones, as with kedit's presets (see `kedit.editors.presets`), and so is C.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kedit.errors import InputError

log = logging.getLogger("kedit")

ENDINGS = (".json", ".yaml", ".yml")
# what their fields are called in kedit
TRAINING = {
    "v_num_grad_steps": "training.steps",
    "v_lr": "training.lr",
    "v_weight_decay": "training.weight_decay",
    "kl_factor": "training.kl",
    "clamp_norm_factor": "training.clamp",
}
# kedit's own settings, set to what the published code does
AS_PUBLISHED = {"training.words": 0, "training.stop": 0.05, "contexts": ()}
# matrices that write to the residual stream, by their modules' names in the families that these
# codes edit
W_OUT = ("c_proj", "fc_out", "down_proj", "dense_4h_to_h", "fc2", "w2")
# fields of which nothing in kedit depends: names of modules, of devices, and of caches
UNUSED = {
    "alg_name", "model_name", "tokenizer_name", "device", "model_parallel", "fp16", "stats_dir",
    "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module",
    "v_loss_layer", "rewrite_module_tmp", "batch_size", "max_length", "n_toks", "lr_scale", "p",
    "refine",
}  # fmt: skip
OF_C = ("mom2_dataset", "mom2_n_samples", "mom2_dtype")


def is_settings(file: str) -> bool:
    """Returns whether a JSON file holds an editor's settings, and not what tune_editors wrote."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "editors" not in found


def read_settings(file: str | Path) -> tuple[str, dict[str, Any]]:
    """Returns the name of the editor whose settings a file has, and the settings by field.

    Raises:
        InputError: the file cannot be read, its method is unknown, or kedit has no such setting;
            the message names the field.
    """
    path = Path(file)
    fields = _read(path)
    method = _method(path, fields)
    if method not in _SETTINGS:
        raise InputError(
            f"{path}: settings of {method or 'an unknown method'} cannot be read, only those of "
            f"{', '.join(_SETTINGS)}"
        )
    return _SETTINGS[method](path, dict(fields))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            found = json.loads(text)
        else:
            import yaml  # a dependency of Hugging Face's libraries

            # YAML 1.1 reads 5e-1 as text, and EasyEdit's files have such numbers
            found = {name: _number(value) for name, value in dict(yaml.safe_load(text)).items()}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as settings of an editor: {error}") from None
    except Exception as error:  # yaml's errors have no base class but Exception
        raise InputError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: settings of an editor are fields with values")
    return found


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _method(path: Path, fields: Mapping[str, Any]) -> str:
    """Returns the method: from `alg_name`, from the fields, or from the folder's name."""
    if "alg_name" in fields:
        return str(fields["alg_name"]).upper()
    if "mom2_update_weight" in fields:
        return "MEMIT"
    if "v_num_grad_steps" in fields:
        return "ROME"
    if "norm_constraint" in fields:
        return "FT"
    if "adaptive_threshold" in fields:
        return "KN"
    return path.parent.name.upper()


class _Fields:
    """The fields of a file, which are taken one by one, so that the rest can be told."""

    def __init__(self, path: Path, fields: dict[str, Any]) -> None:
        self._path, self._fields = path, fields

    def take(self, name: str) -> Any:
        if name not in self._fields:
            raise InputError(f"{self._path}: the field {name} is missing")
        return self._fields.pop(name)

    def require(self, name: str, wanted: tuple[Any, ...], why: str) -> Any:
        """Takes a field that may be missing, and refuses other values than the wanted ones."""
        value = self._fields.pop(name, wanted[0])
        if value not in wanted:
            raise InputError(f"{self._path}: {name} is {value!r}, but {why}")
        return value

    def trained(self) -> dict[str, Any]:
        """Takes the settings of the training of values."""
        names = {name: field for name, field in TRAINING.items() if name in self._fields}
        return {field: self._fields.pop(name) for name, field in names.items()}

    def layers(self) -> tuple[int, ...]:
        """Takes the layers, and requires that their W_out is what is edited."""
        module = str(self._fields.get("rewrite_module_tmp", W_OUT[0])).removesuffix(".weight")
        if module.split(".")[-1] not in W_OUT:
            raise InputError(
                f"{self._path}: rewrite_module_tmp is {module!r}, but kedit's editor changes W_out "
                f"({', '.join(W_OUT)})"
            )
        layers = self.take("layers")
        if (
            not isinstance(layers, list)
            or not layers
            or not all(type(one) is int for one in layers)
        ):
            raise InputError(f"{self._path}: layers is {layers!r}, but a list of numbers is needed")
        return tuple(layers)

    def layer(self) -> int:
        """Takes the only layer."""
        layer, *others = self.layers()
        if others:
            raise InputError(
                f"{self._path}: layers has {1 + len(others)} layers, but one is needed"
            )
        return layer

    def where(self) -> str:
        return self.require(
            "fact_token", ("subject_last", "last"), "kedit has subject_last and last"
        )

    def spared(self) -> None:
        """Takes the fields about C, and tells that kedit measures its own."""
        self.require("mom2_adjustment", (True,), "kedit's editors always spare other text by C")
        given = [f"{name} {self._fields.pop(name)}" for name in OF_C if name in self._fields]
        if given:
            log.warning(
                "%s: C is measured on kedit's text, not as the file says (%s); published "
                "statistics can be given as moments=('FILE.npz',)",
                self._path,
                ", ".join(given),
            )

    def finish(self) -> None:
        """Tells which other fields are not used."""
        if unused := sorted({*self._fields} - UNUSED):
            log.warning("%s: kedit does not use the fields %s", self._path, ", ".join(unused))


def _rome(path: Path, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    fields = _Fields(path, given)
    settings = {"layer": fields.layer(), "where": fields.where(), **fields.trained()}
    if "context_template_length_params" in given:
        pairs = fields.take("context_template_length_params")
        settings["lengths"] = tuple((int(length), int(n)) for length, n in pairs)
    fields.spared()
    fields.finish()
    return "rome", settings | AS_PUBLISHED


def _memit(path: Path, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    fields = _Fields(path, given)
    fields.require("layer_selection", ("all",), "kedit edits all layers that are listed")
    settings = {"layers": fields.layers(), "where": fields.where(), **fields.trained()}
    settings["weight"] = float(fields.take("mom2_update_weight"))
    fields.spared()
    fields.finish()
    return "memit", settings | AS_PUBLISHED


def _ft(path: Path, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    fields = _Fields(path, given)
    for name in ("weight_decay", "kl_factor"):
        fields.require(name, (0,), "kedit's FT has none")
    settings = {
        "layer": fields.layer(), "steps": fields.take("num_steps"), "lr": fields.take("lr"),
        "bound": float(fields.take("norm_constraint") or 0),
    }  # fmt: skip
    losses = {"target_new": "autoregressive", "prompt_last": "upstream"}
    wanted = fields.require("objective_optimization", tuple(losses), f"kedit has {[*losses]}")
    settings["loss"] = losses[wanted]
    fields.finish()
    return ("ft+l" if settings["bound"] else "ft"), settings


def _kn(path: Path, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    fields = _Fields(path, given)
    settings = {"threshold": fields.take("adaptive_threshold"), "steps": fields.take("steps")}
    fields.finish()
    return "kn", settings


_SETTINGS: Mapping[str, Callable[[Path, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "ROME": _rome,
    "R-ROME": _rome,
    "MEMIT": _memit,
    "FT": _ft,
    "KN": _kn,
}
