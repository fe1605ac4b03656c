"""From verified groups to a better policy."""
