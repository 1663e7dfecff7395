"""Model files: the one door to what Keras 3 or Keras 2 wrote."""
