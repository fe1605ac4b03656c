"""What a run may be told, and what it was told."""
