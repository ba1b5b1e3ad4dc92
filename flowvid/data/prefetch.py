"""Loading ahead: batches are made by other threads while the last one is in use.

They arrive in order, whatever takes how long, and so does an error: where the batch that it belongs to would have
come. How long the consumer waited, as a share of the time since it first asked, says whether loading keeps up.
"""

__all__ = ["Prefetch"]

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from flowvid.noise import Noise

T = TypeVar("T")


class Prefetch(Generic[T]):
    """An iterator over ``load(noise)`` for every noise, loaded ahead; a context manager.

    Nothing is loaded before the first item is asked for. Noises are taken in the consumer's thread, at most ``depth``
    before the item that is handed out.

    Arguments:
        load: Makes an item; called in other threads, in order where there is one of them.
        noises: What to load, as it is asked for; it may be endless.
        depth: How many items to load ahead.
        threads: How many threads load; more than ``depth`` are idle.

    Raises:
        ValueError: ``depth`` or ``threads`` is not positive.
    """

    def __init__(
        self, load: Callable[[Noise], T], noises: Iterator[Noise], depth: int = 2, *, threads: int = 1
    ) -> None:
        if depth < 1 or threads < 1:
            raise ValueError(f"Loading ahead needs depth and threads of at least 1; got {depth} and {threads}.")
        self._load = load
        self._noises = noises
        self._depth = depth
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
        self._ahead: deque[Future[T]] = deque()
        self._open = True
        self._started: float | None = None
        self._stopped = 0.0
        self._waiting = 0.0

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        begun = time.perf_counter()
        self._started = begun if self._started is None else self._started
        try:
            self._fill()
            if not self._ahead:
                raise StopIteration
            item = self._ahead.popleft().result()
            self._waiting += time.perf_counter() - begun
            self._fill()
            return item
        except BaseException:
            self.close()
            raise
        finally:
            self._stopped = time.perf_counter()

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def waited(self) -> float:
        """Share of the time between the first item asked for and the last one handed out that went into waiting."""
        elapsed = self._stopped - self._started if self._started is not None else 0.0
        return min(self._waiting / elapsed, 1.0) if elapsed > 0 else 0.0

    def close(self) -> None:
        """Load no more: what is being loaded is finished and dropped, and the threads end."""
        self._open = False
        self._ahead.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        while self._open and len(self._ahead) < self._depth:
            try:
                noise = next(self._noises)
            except StopIteration:
                self._open = False
            except Exception as error:
                failed: Future[T] = Future()
                failed.set_exception(error)
                self._ahead.append(failed)
                self._open = False
            else:
                self._ahead.append(self._pool.submit(self._load, noise))
