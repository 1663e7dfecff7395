"""From calibration data to statistics of both networks: batches, the activation store, the walk, the gathering."""
