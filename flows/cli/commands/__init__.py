"""One module a command: `add` gives its parser the flags, `run` does what they say and returns the exit code."""
