"""Trained fields as things that browsers draw at interactive rates: Gaussian splats and sparse grids."""
