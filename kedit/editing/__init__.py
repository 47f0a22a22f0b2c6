"""What an edit is, and what editors are built from: write sites, keys, values, moments, solvers."""
