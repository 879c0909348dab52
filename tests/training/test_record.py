"""What training shows while it goes."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from crosscam.training import record
from crosscam.training.record import Bar, Position


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(record.time, "monotonic", lambda: self.now)


def go(clock: Clock, epochs: int, steps: int, seconds: float, *, visible: bool = True) -> None:
    """Trains: the loss of a step is its number within its epoch."""
    at = Position()
    with Bar(visible, epochs) as bar:
        while at.epoch < epochs:
            for step in range(steps):
                clock.now += seconds
                at.advance(16, seconds)
                terms = {"id": torch.tensor(float(step)), "triplet": torch.tensor(1.0)}
                bar.show(at.epoch + at.step_in_epoch / steps, at, 3.5e-4, terms)
            at.next_epoch()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_off_a_terminal_every_epoch_has_a_line(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    go(clock, epochs=3, steps=5, seconds=4.0)
    out, err = capsys.readouterr()
    assert out == ""
    # Losses 0 to 4 average 2; 16 images in 4 seconds; an epoch takes 20.
    assert err.splitlines() == [
        f"epoch {n}/3  loss 3.000 (id 2.000, triplet 1.000)  lr 3.5e-04  4 images/s  left {left}"
        for n, left in ((1, "0:00:40"), (2, "0:00:20"), (3, "0:00:00"))
    ]


def test_short_epochs_have_a_line_in_ten_seconds_beside_the_first_and_the_last(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    go(clock, epochs=50, steps=4, seconds=0.125)  # half a second an epoch
    numbers = [int(n) for n in re.findall(r"^epoch (\d+)/50", capsys.readouterr().err, re.M)]
    assert numbers == [1, 21, 41, 50]


def test_losses_are_averaged_over_the_epochs_without_a_line(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    go(clock, epochs=3, steps=3, seconds=0.1)
    assert re.findall(r"id (\S+),", capsys.readouterr().err) == ["1.000", "1.000"]


def test_a_resumed_run_of_one_step_has_its_line(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Position(epoch=1, step_in_epoch=4, step=9, images=144, seconds=36.0)
    with Bar(True, 2) as bar:
        at.advance(16, 4.0)
        bar.show(2.0, at, 1e-5, {"id": torch.tensor(0.5)})
    assert capsys.readouterr().err == (
        "epoch 2/2  loss 0.500 (id 0.500)  lr 1.0e-05  4 images/s  left 0:00:00\n"
    )


def test_quiet_is_quiet_and_a_terminal_has_no_lines(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go(clock, epochs=2, steps=2, seconds=9.0, visible=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    go(clock, epochs=2, steps=2, seconds=9.0)
    assert "images/s" not in capsys.readouterr().err
