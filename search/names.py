"""Names: what recordings are called in a clip store."""

import os


def place_of(text: str, is_remote: bool = False) -> str:
    """The same name for the same folder or file, however it was written."""
    if is_remote:
        return text.rstrip("/")
    path = os.path.abspath(text)
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def storable(name: str) -> str:
    """The name as text that any database takes: bytes that are no UTF-8 as \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
