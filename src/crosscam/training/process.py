"""Where training runs: device, precision, the other processes, and signals to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from crosscam.errors import RecipeError

__all__ = [
    "agree",
    "interruptible",
    "leave",
    "peak_memory",
    "pick_device",
    "processes",
    "rank",
    "stop_signals",
    "use_bf16",
]


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is a GPU if there is one.

    Raises:
        RecipeError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"unknown device '{name}'; use cpu, cuda, cuda:0 or auto.") from error
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(f"device '{name}' is not supported; use cpu, cuda, cuda:0 or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RecipeError(f"device '{name}' was asked for, but PyTorch sees {count} GPUs here.")
    return device


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; "auto" does where the hardware has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def peak_memory(device: torch.device) -> int | None:
    """Most memory in use so far, in megabytes: allocated on a GPU, else resident of this process.

    None where the system does not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 10**6
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 10**6


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int, torch.device]]:
    """(rank, world size, device of this process); joins the others if torchrun started us."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield rank(), world, device
        dist.barrier()
    finally:
        dist.destroy_process_group()


def keep(joined: object) -> None:
    """Keeps what joins this process to others (DistributedDataParallel) until it ends.

    Freed before, it waits for a thread of gloo while it holds Python's lock, and that thread, if it
    has not yet let go of the last barrier, waits for the lock: for ever.
    """
    _KEPT.append(joined)


_KEPT: list[object] = []


def leave(status: int) -> NoReturn:
    """Ends one of several processes at once, when all is saved and said.

    DistributedDataParallel keeps gloo's threads alive behind ``destroy_process_group``, and now and
    then an ending Python waits for them for ever or is taken down by them (SIGABRT).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def stop_signals() -> Iterator[signal.Signals]:
    """Of Ctrl-C, kill and a closed terminal those that reach this process."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            yield number


@contextlib.contextmanager
def interruptible(alone: bool = True) -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C, kill or a closed terminal asked to stop.

    The first signal lets the current step finish and be saved; a second one acts at once, but
    not on a process that is not ``alone``: its launcher passes the same wish on several times.
    """
    asked = False
    kept: dict[signal.Signals, Any] = {}

    def handler(*_: Any) -> None:
        nonlocal asked
        asked = True
        if not alone:
            return
        for signal_number, previous in kept.items():
            signal.signal(signal_number, previous)

    try:
        for number in stop_signals():
            kept[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread: signals are somebody else's business
        kept = {}
    try:
        yield lambda: asked
    finally:
        for number, previous in kept.items():
            signal.signal(number, previous)


def agree(wish: bool, world: int, device: torch.device) -> bool:
    """Whether any of ``world`` processes wishes it; all of them get the same answer."""
    if world == 1:
        return wish
    flag = torch.tensor([float(wish)], device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())
