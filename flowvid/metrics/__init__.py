"""Metrics: how close, how sharp and how smooth a sampled video is, and what it cost."""
