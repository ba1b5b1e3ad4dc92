"""Comparison: rivals trained on the same clips under the same budget, in one table."""
