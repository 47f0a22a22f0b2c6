"""Benchmarks: how fast kedit is, compared with the usual ways, and how good its estimates are."""

import kedit  # noqa: F401  # before torch is loaded, so that its threads do not spin
