"""What a Keras layer means: its kernel as a matrix, its place in the graph, folding and rebuilding."""
