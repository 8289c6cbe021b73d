"""The same scenario with other settings: a grid of runs, and what came of them together."""
