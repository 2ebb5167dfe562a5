"""Networks that are sent stage by stage: encode, decode, serve, compare."""
