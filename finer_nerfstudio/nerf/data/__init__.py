"""Scenes and captures: reading, checking, batches."""
