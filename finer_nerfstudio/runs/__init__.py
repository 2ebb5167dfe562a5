"""What every run shares: options, the training loop, progress, results, reports, sweeps."""
