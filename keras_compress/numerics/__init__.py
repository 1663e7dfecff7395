"""Matrices in, matrices out: alphabets, statistics and the greedy solvers. NumPy and SciPy only."""
