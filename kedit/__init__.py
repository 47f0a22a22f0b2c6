"""Where a language model keeps a relation, and what changes when it is edited."""

import os
import sys

if "torch" not in sys.modules:
    # Threads that wait by spinning make everything several times slower beside one other busy
    # process. OpenMP reads this once, when torch is loaded; what a user has set stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
