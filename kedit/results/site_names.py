"""Takes the names of sites apart: T5's sites begin with the tower that they are in."""


def tower_of(name: str) -> str:
    """Returns the tower that a grid's name begins with: T5's "encoder" or "decoder"."""
    tower, dot, _ = name.partition(".")
    return tower if dot else ""


def within_tower(name: str) -> str:
    """Returns a grid's name without its tower: "mlp_out" for "encoder.mlp_out"."""
    return name.rpartition(".")[2]
