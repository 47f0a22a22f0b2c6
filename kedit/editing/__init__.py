"""What an edit is, and what editors are made of: sites, keys, values, moments, solvers."""
