"""Options of the command line that hold several words."""


def words(text: str) -> tuple[str, ...]:
    """Words of an option such as "CO OH" or "CO,OH"."""
    return tuple(text.replace(",", " ").split())
