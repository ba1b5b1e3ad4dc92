"""Solvers: ways to move a state along a drift through given times, each returning a Solution."""
