"""Meshes and point clouds on disk: one module for each format that is read, and one that writes."""
