"""Shared by every run: options, the training loop, progress, results, reports, sweeps."""
