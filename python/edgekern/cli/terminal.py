"""Text for a terminal."""


def printable(text: str) -> str:
    """Names in a stranger's file may hold what a terminal takes for commands, or what it cannot print."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
