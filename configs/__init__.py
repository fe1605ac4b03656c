"""Config files: `common.py` holds every key, the others change a few."""
