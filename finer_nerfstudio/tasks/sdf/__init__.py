"""Shapes as signed distance fields: reading, distances, sampling, fitting, extraction, measuring and shading."""
