"""What other work on the machine costs evaluation: threads that wait for each other spin.

    python benchmarks/busy.py
    python benchmarks/busy.py --busy 4 --rounds 5

PyTorch's threads (libgomp) wait for the slowest of them by turning in a loop, for as long as a few
milliseconds.  With a processor for each that is the quickest way; where other processes want the
processors too, those who turn keep away the one they wait for.  The command line therefore says
GOMP_SPINCOUNT=1000, unless the environment has one.  This measures an embedding of random pictures
(the network of the recipe "cpu", mirror included, as many threads as processors) with libgomp's own
choice and with ours, alone and beside --busy processes that only compute, in turn; images per
second, the median of the rounds, and the ratio to libgomp's choice.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from crosscam.cli import SPIN, told

PICTURES = 256
BURN = "while True: pass"


def embed() -> float:
    """Images a second of one embedding, in this process."""
    import numpy as np
    import torch

    from crosscam import embedder
    from crosscam.recipe import parse

    torch.manual_seed(0)
    recipe = parse("cpu")
    function = embedder.of_method(recipe.method.build(10), recipe, device="cpu").function
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, 128, 64, 3), np.uint8)
    function(pictures[:64])
    began = time.perf_counter()
    function(pictures)
    return PICTURES / (time.perf_counter() - began)


def measured(spin: str) -> float:
    """The same in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": spin} if spin else {}
    out = subprocess.run(
        [sys.executable, __file__, "--one"], env=environment, check=True, capture_output=True
    )
    return float(out.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    processors = os.cpu_count() or 1
    parser.add_argument("--busy", type=int, default=processors, help="processes (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(embed())
        return
    print(f"{processors} processors, images/s\n\n| beside | libgomp's choice | {SPIN} | ratio |")
    print("|---|--:|--:|--:|")
    for count, beside in ((0, "nothing"), (options.busy, f"{options.busy} busy processes")):
        others = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count)]
        try:
            pairs = [(measured(""), measured(SPIN)) for _ in range(options.rounds)]
        finally:
            for other in others:
                other.kill()
                other.wait()
        theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"| {beside} | {theirs:.0f} | {ours:.0f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(told(main))
