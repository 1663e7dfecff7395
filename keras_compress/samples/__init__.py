"""Samples in every form that users have them, by one protocol; nothing holds a data set whole in floating point."""
