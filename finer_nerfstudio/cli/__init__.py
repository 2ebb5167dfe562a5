"""The command ``finer``: a file for each verb."""
