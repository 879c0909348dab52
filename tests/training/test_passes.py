"""Steps that are played again learn what steps made one by one learn."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crosscam.errors import RecipeError, TrainingError
from crosscam.methods import BackboneSettings, Method, find
from crosscam.recipe import OptimizerSettings
from crosscam.training import loop
from crosscam.training.optim import make_optimizers
from crosscam.training.passes import Passes, Plain, Recorded
from crosscam.types import Batch, Prior

PEOPLE, IMAGES, SIZE = 3, 2, (32, 16)
MPN = {"width": 8, "num_parts": 2}
SAN = {"embedding": 8, "decoder_width": 0.0625}


def build(name: str, **options: Any) -> Method:
    torch.manual_seed(0)
    backbone = BackboneSettings("resnet18", width=0.125)
    return find(name)(PEOPLE, backbone=backbone, **options).train()  # type: ignore[call-arg]


def batches(method: Method, count: int, device: str = "cpu") -> list[Batch]:
    """Of one size, with what the method reads beside pictures; the order of people differs."""
    found = some(method, count, device, seed=1)
    if not method.takes_pairs:
        return found
    pairs = some(method, count, device, seed=2)
    return [dataclasses.replace(b, pairs=p) for b, p in zip(found, pairs, strict=True)]


def some(method: Method, count: int, device: str, seed: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(seed)
    made = []
    for step in range(count):
        pids = torch.arange(PEOPLE).roll(step).repeat_interleave(IMAGES)
        if step % 2:
            pids = pids.view(PEOPLE, IMAGES).T.flatten()
        n = len(pids)
        priors: dict[Prior, Tensor] = {}
        if Prior.MASKS in method.needs:
            priors[Prior.MASKS] = torch.rand(n, len(method.parts), *SIZE, generator=draw)
        if Prior.TEXTURE in method.needs:
            priors[Prior.TEXTURE] = torch.rand(n, 3, 32, 32, generator=draw) * 2 - 1
        images = torch.randn(n, 3, *SIZE, generator=draw)
        priors = {kind: value.to(device) for kind, value in priors.items()}
        camids = torch.zeros(n, dtype=torch.int64, device=device)
        here = images.to(device), pids.to(device), camids
        made.append(Batch(*here, priors, labels=pids.tolist()))
    return made


class Player:
    """Stands in for CUDA graphs: computes the recorded operations again, and nothing else.

    What Python did between them is not done again, and results go to the memory of the recording.
    """

    def __init__(self, method: Method) -> None:
        self.method, self.recorded, self.played = method, 0, 0

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        before = copy.deepcopy(self.method.state_dict())
        with torch.random.fork_rng(), Operations() as operations:
            result = run()
        self.method.load_state_dict(before)  # recording computes nothing
        self.recorded += 1

        def play() -> None:
            self.played += 1
            operations.again()

        return result, play


class Operations(TorchDispatchMode):
    """Writes down every operation, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def again(self) -> None:
        for func, args, kwargs, result in self.done:
            new = func(*args, **kwargs)
            for there, value in zip(tree_leaves(result), tree_leaves(new), strict=True):
                # A view, or an operation in place, is where it was.
                if isinstance(value, Tensor) and value.data_ptr() != there.data_ptr():
                    there.copy_(value)


def learned(
    method: Method, passes: Passes, found: list[Batch], progress: Callable[[int], float]
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Terms and figures of all steps."""
    updates = make_optimizers(method, OptimizerSettings("adamw", lr=1e-3))
    terms, figures = [], []
    for step, batch in enumerate(found):
        method.schedule(progress(step))
        torch.manual_seed(step)
        terms.append(loop.learn(batch, passes, updates, norm=5.0))
        figures.append({k: v.clone() for k, v in method.figures.items()})
    return terms, figures


@pytest.mark.parametrize(
    ("name", "options", "recorded", "played"),
    [
        ("baseline", {"embedding": 8, "dropout": 0.5, "triplet_from": 0.5}, 2, 4),
        ("msfl", {"width": 8, "refine_width": 8, "embedding": 8, "msgr": 0.1}, 1, 7),
        ("mpn", {**MPN, "prior": "extent"}, 1, 7),
        ("mmga", {"features": 8}, 1, 7),
        ("san", {**SAN, "constraint": 0}, 2, 14),
        ("san", SAN, 1, 7),  # the triplets of the second are drawn by labels
        ("mpn+guidance", MPN, 1, 7),
    ],
)
def test_played_steps_are_the_steps(
    name: str, options: dict[str, Any], recorded: int, played: int
) -> None:
    one, two = build(name, **options), build(name, **options)
    found = batches(one, 10)
    share = [0.0] * 5 + [0.9] * 5
    player = Player(two)
    want = learned(one, Plain(one, one), found, share.__getitem__)
    have = learned(two, Recorded(Plain(two, two), player), found, share.__getitem__)
    assert (player.recorded, player.played) == (recorded, played)
    for a, b in zip(want[0] + want[1], have[0] + have[1], strict=True):
        assert list(a) == list(b)
        assert all(torch.equal(a[k], b[k]) for k in a)
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key


def test_what_a_graph_cannot_know_is_seen() -> None:
    method = build("baseline")
    player = Player(method)
    passes = Recorded(Plain(method, method), player)
    found = batches(method, 5)
    updates = make_optimizers(method, OptimizerSettings("adamw"))

    def five() -> int:
        before = player.recorded
        for batch in found:
            loop.learn(batch, passes, updates)
        return player.recorded - before

    assert five() == 1
    assert five() == 0
    method.smoothing = 0.3  # type: ignore[assignment]
    assert five() == 1
    method.weights = {"id": [1.0, 2.0]}  # type: ignore[assignment]
    assert five() == 1
    method.weights["id"][1] = 3.0  # type: ignore[index]
    assert five() == 1
    method.weights["id"].append(np.float64(2))  # type: ignore[index]
    assert five() == 1
    method.backbone.requires_grad_(False)  # type: ignore[operator]
    assert five() == 1
    smaller = [Batch(b.images[:, :, :16], b.pids, b.camids) for b in found]
    found = smaller
    assert five() == 1
    assert five() == 0


def test_the_weight_of_the_regularizer_is_seen() -> None:
    method = build("baseline", msgr=0.1)
    passes = Recorded(Plain(method, method), player := Player(method))
    assert method.regularizer is not None
    for batch in batches(method, 10):
        passes(batch, 0)
        if player.played == 2:
            method.regularizer.weight = 0.2
    assert player.recorded == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("not permitted when capturing"), r"not permitted .*\. Leave engine\.graphs"),
        (torch.OutOfMemoryError("40 GB asked for"), r"no memory .*40 GB.*take smaller batches"),
    ],
    ids=["waits", "memory"],
)
def test_a_step_that_cannot_be_recorded_says_what_to_do(error: Exception, said: str) -> None:
    def fail(run: Any) -> Any:
        raise error

    method = build("baseline")
    passes = Recorded(Plain(method, method), fail)
    *warm, last = batches(method, 4)
    for batch in warm:
        passes(batch, 0)
    with pytest.raises(TrainingError, match=said):
        passes(last, 0)


def test_labels_of_pairs_are_labels() -> None:
    method = build("baseline")
    losses = method.losses

    def reading(batch: Batch) -> dict[str, Tensor]:
        assert batch.pairs is not None
        batch.pairs.listed_pids()
        return losses(batch)

    method.losses = reading  # type: ignore[method-assign]
    player = Player(method)
    passes = Recorded(Plain(method, method), player)
    for batch in batches(method, 6):
        passes(dataclasses.replace(batch, pairs=batch), 0)
    assert player.recorded == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("baseline", {}),
        ("msfl", {"width": 8, "refine_width": 8, "embedding": 8, "msgr": 0.1}),
        ("mpn+guidance", MPN),
        ("san", SAN),
    ],
)
def test_nothing_of_a_step_outlives_it(name: str, options: dict[str, Any]) -> None:
    """Or a recording would find nodes of the step before, which are of another stream."""
    method = build(name, **options)
    passes = Plain(method, method)
    first, second = batches(method, 2)
    used: set[str] = set()
    nodes = {k: accumulating(p) for k, p in method.named_parameters() if p.requires_grad}
    for key, node in nodes.items():
        node.register_prehook(lambda _, key=key: used.add(key))
    kept = [passes(first, update) for update in range(len(method.updates()))]
    assert used
    used.clear()
    nodes.clear()
    del node
    kept += [passes(second, update) for update in range(len(method.updates()))]
    assert not used


def accumulating(parameter: torch.nn.Parameter) -> Any:
    """The node of autograd that adds to the gradient of a parameter; the same while one lives."""
    view = parameter.view_as(parameter)
    assert view.grad_fn is not None
    return view.grad_fn.next_functions[0][0]


def test_steps_that_are_never_played_are_told_of() -> None:
    def said(method: Method, change: Callable[[int], object] = bool, count: int = 30) -> str:
        passes = Recorded(Plain(method, method), Player(method))
        for step, batch in enumerate(batches(method, count)):
            change(step)
            for update in range(len(method.updates())):
                passes(batch, update)
        return passes.unplayed()

    method = build("baseline")
    change = functools.partial(setattr, method, "mood")
    assert said(method) == ""
    assert said(method, change) == "a size, or a number of the method, keeps changing"
    assert said(method, change, 29) == ""  # too few to tell
    assert said(method, lambda step: change(max(step, 9))) == ""  # it has been played before
    assert said(build("san", **SAN)) == ""  # one of its two updates is
    losses = method.losses

    def reading(batch: Batch) -> dict[str, Tensor]:
        batch.listed_pids()
        return losses(batch)

    method.losses = reading  # type: ignore[method-assign]
    assert said(method) == "its losses read labels that are on the host"


def test_what_terms_a_step_had_can_be_asked_later() -> None:
    method = build("baseline")
    passes = Recorded(Plain(method, method), Player(method))
    first, *rest = [passes(batch, 0) for batch in batches(method, 8)][3:]
    values = [float(step["id"]) for step in (first, *rest)]
    assert len(set(values)) == len(values)


def test_where_steps_are_recorded() -> None:
    method = build("baseline")
    plain, gpu = Plain(method, method), torch.device("cuda")
    assert isinstance(loop.recorded(plain, gpu, 1), Recorded)
    assert loop.recorded(plain, torch.device("cpu"), 1) is plain
    with pytest.raises(RecipeError, match="2 processes"):
        loop.recorded(plain, gpu, 2)
    method = build("baseline", msgr=0.1, msgr_adversarial=True)
    with pytest.raises(RecipeError, match="msgr_adversarial=true"):
        loop.recorded(Plain(method, method), gpu, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("baseline", {"embedding": 8, "dropout": 0.5, "triplet_from": 0.5}),
        ("msfl", {"width": 8, "refine_width": 8, "embedding": 8, "msgr": 0.1}),
        ("mpn", {**MPN, "prior": "extent"}),
        ("mmga", {"features": 8}),
        ("san", {**SAN, "constraint": 0}),
        ("san", SAN),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_graphs_of_a_gpu(name: str, options: dict[str, Any], compiled: bool) -> None:
    """As the training loop has it: bfloat16, channels-last, algorithms that are tried."""
    if compiled and options.get("msgr"):
        pytest.skip("a compiled step cannot be differentiated twice")

    def run(kind: type[Plain | Recorded]) -> list[dict[str, Tensor]]:
        method = build(name, **options).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learner = torch.compile(method) if compiled else method
        passes: Any = Plain(method, learner, half=True)
        if kind is Recorded:
            passes = Recorded(passes)
        found = batches(method, 12, "cuda")
        with loop.chosen_convolutions():
            terms = learned(method, passes, found, ([0.0] * 6 + [0.9] * 6).__getitem__)[0]
        if kind is Recorded:
            assert any(tape.replay is not None for tape in passes.tapes.values())
        return terms

    for a, b in zip(run(Plain), run(Recorded), strict=True):
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=5e-2, atol=5e-3)
