"""Evaluators: plug-ins that yield (name, value) pairs for a policy."""
