"""The paper's tables: protocols, cells, verdicts."""
