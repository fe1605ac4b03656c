"""Meshes of devices, and hosts."""
