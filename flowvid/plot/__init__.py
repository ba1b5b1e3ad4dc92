"""Plots: figures drawn from results."""
