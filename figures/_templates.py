"""The templates of the pages that `figures.report` writes."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment() -> Environment:
    """Returns the environment of the templates beside this file, which escapes all text."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # tojson writes <, >, & and ' as escapes, so no token can end the script block
    compact = {"allow_nan": False, "separators": (",", ":")}
    templates.policies["json.dumps_kwargs"] = compact
    return templates
