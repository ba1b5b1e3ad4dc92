"""Dynamics: transition heads over several gaps, the weights that combine them, and the drift they make."""
