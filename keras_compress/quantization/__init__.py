"""Quantizers and `quantize()`."""
