"""Training whose steps have one shape, so that a GPU repeats them as a graph and nobody waits for it."""
