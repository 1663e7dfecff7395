"""Trainings by Keras 3's own `fit`: settings, compiling, constraints, a run that can be killed."""
