"""Training and loading of runs through Nerfstudio's trainer."""
