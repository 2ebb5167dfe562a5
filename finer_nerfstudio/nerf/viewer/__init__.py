"""Nerfstudio's live viewer."""
