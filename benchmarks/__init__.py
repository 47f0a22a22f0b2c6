"""Benchmarks: how fast kedit is, compared with the usual ways, and how good its estimates are."""
