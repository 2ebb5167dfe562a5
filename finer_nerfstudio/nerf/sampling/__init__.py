"""Which rays are taken, and where along them the field is asked."""
