"""Tasks: one file each, with an example, a prompt and a verifier."""
