"""Takes the names of sites apart: T5's sites begin with the stack that they are in."""


def stack_of(name: str) -> str:
    """Returns the stack of blocks that a grid's name begins with: T5's "encoder" or "decoder"."""
    stack, dot, _ = name.partition(".")
    return stack if dot else ""


def within_stack(name: str) -> str:
    """Returns a grid's name without its stack: "mlp_out" for "encoder.mlp_out"."""
    return name.rpartition(".")[2]
