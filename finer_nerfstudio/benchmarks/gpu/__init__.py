"""Measurements on a GPU that is at hand only now and then, a few minutes at a time."""
