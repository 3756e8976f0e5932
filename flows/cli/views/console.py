"""Standard output, for people and for whoever reads it line by line."""


def echo(text: str) -> None:
    """Write a line at once: the output may be a log that somebody follows."""
    print(text, flush=True)  # noqa: T201 - the one printer of the command line
