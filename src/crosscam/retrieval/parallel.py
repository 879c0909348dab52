"""Tiles of work on several threads, each with a matrix product of its own.

One tile per thread with a single-threaded BLAS beats one tile at a time with a many-threaded
one: nobody waits, and nothing spins between two products.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from crosscam.errors import InputError
from crosscam.processors import cores

__all__ = ["run_tasks", "thread_count"]

Task = TypeVar("Task")

_limit_lock = threading.Lock()
_limit_users = 0
_limiter: Any = None


def thread_count(threads: int | None) -> int:
    """``threads``, or the number of processors this process may use."""
    if threads is None:
        return cores()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a whole number of at least 1 or None, got {threads!r}.")
    return threads


@functools.cache
def _blas_controller() -> Any:
    """Finds NumPy's BLAS once per process (some milliseconds); None without threadpoolctl."""
    try:
        return importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None


@contextmanager
def _single_threaded_blas() -> Iterator[bool]:
    """Hold NumPy's BLAS to one thread; yields whether that was possible."""
    global _limit_users, _limiter
    controller = _blas_controller()
    if controller is None:
        yield False
        return
    with _limit_lock:  # overlapping calls share one limit, the last one lifts it
        if _limit_users == 0:
            _limiter = controller.limit(limits=1, user_api="blas")
        _limit_users += 1
    try:
        yield True
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                _limiter.restore_original_limits()
                _limiter = None


def run_tasks(
    worker: Callable[[Iterable[Task]], None], tasks: Iterable[Task], threads: int
) -> None:
    """Run ``worker`` on up to ``threads`` threads; together they use up ``tasks``.

    A worker is called once per thread with an iterator it shares with the others, so it can hold
    scratch memory.  The first exception of any worker is raised here.
    """
    shared = list(tasks)
    with _single_threaded_blas() as limited:
        count = min(threads if limited else 1, len(shared))
        if count <= 1:
            worker(shared)
            return
        queue = iter(shared)
        lock = threading.Lock()
        failed = threading.Event()

        def take() -> Iterator[Task]:
            while not failed.is_set():
                with lock:
                    try:
                        task = next(queue)
                    except StopIteration:
                        return
                yield task

        def guarded(_: int) -> None:
            try:
                worker(take())
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(count) as pool:
            for _ in pool.map(guarded, range(count)):
                pass
