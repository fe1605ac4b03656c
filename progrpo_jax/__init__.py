"""Reinforcement learning with verifiable rewards that keeps diversity alive."""

__version__ = "0.1.0"
