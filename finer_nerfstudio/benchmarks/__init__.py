"""Speed and memory, beside plain PyTorch."""
