"""Verifiers in plain Python, and the process pool that runs them."""
