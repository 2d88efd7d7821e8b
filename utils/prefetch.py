"""Prefetch: what comes next is made while what is there is used."""

import queue
import threading
from collections.abc import Iterator

ITEMS_AHEAD = 3


def prefetch(iterator: Iterator) -> Iterator:
    """The items of `iterator`, made by a thread a few ahead; its exception is raised here."""
    ready: queue.Queue = queue.Queue(ITEMS_AHEAD)
    stop = threading.Event()
    end = object()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def fill() -> None:
        try:
            for item in iterator:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # handed to the consumer, which raises it
            put((end, error))

    threading.Thread(target=fill, daemon=True, name="prefetch").start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
