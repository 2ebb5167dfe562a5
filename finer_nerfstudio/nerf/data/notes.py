"""Sentences for the person at the terminal on what is done with what they gave."""

from __future__ import annotations

from finer_nerfstudio.nerf.training.terminal import note


class Notes:
    """Prints sentences, each once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, sentence: str | None) -> None:
        """Print a sentence as it is, on one line of whatever length; None says nothing."""
        if sentence is not None and sentence not in self._told:
            self._told.add(sentence)
            note(sentence)
