"""Pools that stand in for one of processes, which takes a second to start."""

from concurrent.futures import Future, ThreadPoolExecutor


class InThisProcess:
    """Does the work when it is submitted, in the thread that submits it."""

    def __init__(self, *_, **__): ...

    def submit(self, work, *arguments, progress=None) -> Future:
        future = Future()
        try:
            future.set_result(work(*arguments, progress or (lambda _: None)))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None: ...


class InThreads(ThreadPoolExecutor):
    """Does the work in threads, in turn."""

    def submit(self, work, *arguments, progress=None) -> Future:
        return super().submit(work, *arguments, progress or (lambda _: None))

    def close(self) -> None:
        self.shutdown()
