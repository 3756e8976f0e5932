"""One prepared proof of what is promised on a GPU."""
