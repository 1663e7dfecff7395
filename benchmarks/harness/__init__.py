"""What all benchmarks share: interleaved timing, the networks to measure on, and results with machine and commit."""
