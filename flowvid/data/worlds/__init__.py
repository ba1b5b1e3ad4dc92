"""Synthetic clips, known exactly at every real time: digits, balls, pendulums, branching flights, their captions."""
