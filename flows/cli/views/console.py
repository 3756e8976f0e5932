"""Standard output, for people and for whoever reads it line by line."""

from ups_models.errors import BadInput


def echo(text: str) -> None:
    """Write a line at once: the output may be a log that somebody follows."""
    print(text, flush=True)  # noqa: T201 - the one printer of the command line


def agreed(question: str) -> bool:
    """Whether a person says yes. Raises BadInput where nobody is there to answer."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        raise BadInput("nobody is there to answer; --yes does it without asking") from None
