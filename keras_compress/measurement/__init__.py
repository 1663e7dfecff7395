"""What a model costs and what it is worth: the functions behind every table."""
