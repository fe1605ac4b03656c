"""From prompts to verified groups of responses."""
