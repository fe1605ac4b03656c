"""How published sets, and files of one's own, become problems."""
