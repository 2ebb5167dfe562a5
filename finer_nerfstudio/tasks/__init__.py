"""Tasks outside Nerfstudio: fit a signal, measure, look, export."""
