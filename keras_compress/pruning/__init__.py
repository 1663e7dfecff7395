"""Pruning: weights that become zero, and stay so."""
