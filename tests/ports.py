"""Ports: one that is a server's own, also while it is stopped or still starting."""

import socket


def keep_port() -> socket.socket:
    """A socket bound to a port of 127.0.0.1 which nobody else is given as long as it is open.

    Who asks for just this port may listen there, where both say SO_REUSEADDR: this one does not.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place
