"""Signals on a grid: arrays of any number of axes."""
