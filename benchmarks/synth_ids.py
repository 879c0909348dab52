"""What more rendered people are worth: rank-1 on unseen people in unseen cameras.

    python benchmarks/synth_ids.py --work ids                   # renders, trains, draws; minutes
    python benchmarks/synth_ids.py --work ids --train PEOPLE    # training people already there

One small net is trained for the same number of steps on the first N people of one rendered set
and tested on the people of another, whose seed, people, cameras and scenes are all others.
Prints the table and writes docs/img/synth_ids.svg.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from pathlib import Path

from crosscam import embedder, evaluate
from crosscam.cli import told
from crosscam.data import datasets
from crosscam.data.datasets import rendered
from crosscam.recipe import parse
from crosscam.synth import synthesize
from crosscam.training import loop

IMAGES_A_STEP = 64
NET = (
    "method.backbone.width=0.25", "method.backbone.last_stride=2", "engine.threads=1",
    "engine.checkpoint_minutes=0", "schedule.warmup_epochs=1", "augment.jitter=0.8",
    "augment.brightness=0.4", "augment.contrast=0.4", "augment.saturation=0.4",
    "augment.hue=0.03",
)  # fmt: skip


def measure(people: Path, test: Path, count: int, steps: int, work: Path) -> dict[str, float]:
    """Train on the first ``count`` people of the set ``people`` and test on the set ``test``."""
    listed = work / f"ids{count}.csv"
    images = 0
    with listed.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "pid", "camid", "split"])
        for sample in rendered(people).dataset.train:
            if sample.pid <= count:
                images += 1
                table.writerow([Path(sample.path).resolve(), sample.pid, sample.camid, "train"])
        found = rendered(test).dataset
        for split, samples in (("query", found.query), ("gallery", found.gallery)):
            for sample in samples:
                if sample.pid > 0:
                    # Other people: their numbers must not meet those of the training people.
                    table.writerow([Path(sample.path).resolve(), sample.pid + 50_000,
                                    sample.camid, split])  # fmt: skip
    epochs = max(2, round(steps * IMAGES_A_STEP / images))
    run = work / f"run{count}"
    if (run / "recipe.yaml").exists():
        loop.resume(run, device="cpu", progress=False)  # does nothing once it is finished
    else:
        settings = ["data.name=csv", f"data.root={listed}", f"schedule.epochs={epochs}", *NET]
        loop.train(parse("cpu", settings), run, device="cpu", progress=False)
    card = json.loads((run / "card.json").read_text())
    result = evaluate.evaluate(embedder.load(run, device="cpu"), datasets.load("csv", listed))
    return {"images": images, "epochs": epochs, "steps": card["steps"],
            "minutes": card["training_minutes"], **evaluate.figures(result)}  # fmt: skip


def draw(rows: list[tuple[int, float, float]], path: Path) -> None:
    """(people, rank-1, mAP) as an SVG with a logarithmic axis of people."""
    low, high = math.log(rows[0][0]), math.log(rows[-1][0])
    top = 10 * math.ceil(max(r for _, r, _ in rows) * 10 + 0.5)

    def x(people: float) -> float:
        return 60 + 400 * (math.log(people) - low) / (high - low)

    def y(percent: float) -> float:
        return 250 - 220 * percent / top

    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 500 300" '
           'font-family="sans-serif" font-size="12">',
           '<rect width="500" height="300" fill="#fff"/>']  # fmt: skip
    for p in range(0, top + 1, 10):
        out.append(f'<path d="M60 {y(p):.1f}H460" stroke="#ddd"/>'
                   f'<text x="52" y="{y(p) + 4:.1f}" text-anchor="end">{p}</text>')  # fmt: skip
    for name, column, color in (("rank-1", 1, "#1b5fa8"), ("mAP", 2, "#c05a12")):
        spots = [(x(row[0]), y(100 * row[column])) for row in rows]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{color}"/>' for a, b in spots]
        a, b = spots[-1]
        out.append(f'<text x="{a - 8:.1f}" y="{b - 10:.1f}" text-anchor="end" '
                   f'fill="{color}">{name}</text>')  # fmt: skip
    out += [f'<text x="{x(n):.1f}" y="268" text-anchor="middle">{n}</text>' for n, _, _ in rows]
    out.append('<text x="260" y="290" text-anchor="middle">people to train on</text>'
               '<text x="60" y="18">%, unseen people in unseen cameras</text></svg>')  # fmt: skip
    path.write_text("\n".join(out) + "\n")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for sets and runs")
    parser.add_argument("--train", type=Path, help="a rendered set with enough people to train on")
    parser.add_argument("--people", type=int, nargs="+", default=[50, 100, 200, 400, 800])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--out", type=Path, default=Path("docs/img/synth_ids.svg"))
    args = parser.parse_args()
    if len(set(args.people)) < 2:
        parser.error("a curve needs two numbers of people or more, e.g. --people 50 800")
    args.work.mkdir(parents=True, exist_ok=True)
    people = args.train or synthesize(args.work / "train", max(args.people), 12, 1, seed=1,
                                      train_share=1.0, workers=2)  # fmt: skip
    test = synthesize(args.work / "test", 80, 6, 2, seed=2, train_share=0.0, distractors=0, junk=0,
                      workers=2)  # fmt: skip
    rows = []
    print("people  images  epochs  steps  rank-1   mAP  minutes")
    for count in sorted(args.people):
        begun = time.perf_counter()
        m = measure(people, test, count, args.steps, args.work)
        print(
            f"{count:6d} {m['images']:7.0f} {m['epochs']:7.0f} {m['steps']:6.0f} "
            f"{100 * m['rank1']:7.1f} {100 * m['mAP']:5.1f} "
            f"{(time.perf_counter() - begun) / 60:8.1f}",
            flush=True,
        )
        rows.append((count, m["rank1"], m["mAP"]))
    draw(rows, args.out)


if __name__ == "__main__":
    sys.exit(told(main))
