"""Radiance fields that grow, and their streams."""
