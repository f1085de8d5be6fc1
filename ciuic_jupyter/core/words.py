"""Text of others, as it may be shown."""

from __future__ import annotations


def plain(text: str) -> str:
    """Return `text` in one line, with what does not print (line ends, escape sequences) written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
