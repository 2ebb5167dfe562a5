"""Radiance fields trained, measured and filmed by Nerfstudio's own commands, many of them for a table."""
