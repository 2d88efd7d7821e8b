"""Pools that stand in for one of processes, which takes a second to start."""

from concurrent.futures import Future, ThreadPoolExecutor


class InThisProcess:
    """Does the work when it is submitted."""

    def __init__(self, *_, **__): ...

    def submit(self, work, *arguments) -> Future:
        future = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_): ...


class InThreads(ThreadPoolExecutor):
    """Does the work in threads: results come in the order in which they are ready."""

    def __init__(self, workers: int, *_, **__):
        super().__init__(workers)
