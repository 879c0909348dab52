"""The training loader: what a batch is, alone and shared by several processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosscam.data.augment import Augment
from crosscam.data.loader import TrainLoader
from crosscam.data.samplers import make_sampler
from crosscam.data.store import ImageStore
from crosscam.errors import InputError, RecipeError
from crosscam.image import Preprocess
from crosscam.types import Batch, Prior

SIZE = (32, 16)
PRE = Preprocess(size=SIZE)
CPU = torch.device("cpu")
EVERYTHING = Augment(pad=3, resize_crop=0.5, jitter=0.5, saturation=0.2, hue=0.1, erase_priors=True)
NOTHING = Augment(flip=0, pad=0, erase=0)

LABELS = np.random.default_rng(3).permutation(np.repeat(np.arange(6), 7))
CAMIDS = np.arange(len(LABELS)) % 4 + 1


def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (len(LABELS), *SIZE, 3), dtype=torch.uint8, generator=generator)


def priors() -> dict[Prior, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    n = len(LABELS)
    points = torch.rand(n, 5, 3, generator=generator) * torch.tensor([15.0, 31.0, 1.0])
    return {
        Prior.MASKS: torch.rand(n, 3, *SIZE, generator=generator),
        Prior.KEYPOINTS: points,
        Prior.TEXTURE: torch.rand(n, 3, 4, 4, generator=generator),
    }


def loader(augment: Augment = EVERYTHING, kind: str = "grouped", **options: Any) -> TrainLoader:
    options = {"images": pictures(), "seed": 9, "device": CPU, **options}
    sampler = make_sampler(kind, LABELS, 4, 3, seed=2)
    return TrainLoader(options.pop("images"), LABELS, CAMIDS, sampler, augment, PRE, **options)


def assert_equal(one: Batch, other: Batch) -> None:
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.pids, other.pids)
    assert torch.equal(one.camids, other.camids)
    assert one.priors.keys() == other.priors.keys()
    for kind in one.priors:
        assert torch.equal(one.require(kind), other.require(kind))


# --- what a batch is --------------------------------------------------------------------------


def test_without_augmentation_batches_are_the_rows_of_the_sampler() -> None:
    plain = loader(NOTHING, priors=priors())
    rows = plain.sampler.epoch(1)
    batches = list(plain.epoch(1))
    assert len(batches) == len(rows) > 1
    for batch, mine in zip(batches, rows, strict=True):
        assert torch.equal(batch.images, PRE.normalize_tensor(pictures()[mine]))
        assert batch.pids.tolist() == LABELS[mine].tolist()
        assert batch.camids.tolist() == CAMIDS[mine].tolist()
        assert batch.pids.dtype == batch.camids.dtype == torch.int64
        for kind, values in priors().items():
            torch.testing.assert_close(batch.require(kind), values[mine])


def test_augmentation_is_that_of_epoch_and_step() -> None:
    full = loader(priors=priors())
    for step, batch in enumerate(full.epoch(2)):
        rows = full.sampler.epoch(2)[step]
        draws = EVERYTHING.draw(9, 2, step, len(rows), SIZE)
        assert torch.equal(batch.images, EVERYTHING.apply(pictures()[rows], draws, PRE))
        some = {kind: values[rows] for kind, values in priors().items()}
        for kind, values in EVERYTHING.apply_priors(some, draws, SIZE).items():
            assert torch.equal(batch.require(kind), values)


def test_batches_are_laid_out_channels_last() -> None:
    images = next(iter(loader().epoch(0))).images
    assert images.shape == (12, 3, 32, 16)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_stored_pictures_are_not_changed() -> None:
    images, given = pictures(), priors()
    for _ in loader(images=images, priors=given).epoch(0):
        pass
    assert torch.equal(images, pictures())
    for kind, values in priors().items():
        assert torch.equal(given[kind], values)


def test_a_mirror_exchanges_what_it_is_told_to() -> None:
    mirror = Augment(flip=1, pad=0, erase=0)
    pairs = {Prior.KEYPOINTS: [(0, 1)], Prior.MASKS: [(0, 2)]}
    mirrored = loader(mirror, priors=priors(), flip_pairs=pairs)
    batch = next(iter(mirrored.epoch(0)))
    rows = mirrored.sampler.epoch(0)[0]
    points = priors()[Prior.KEYPOINTS][rows][:, [1, 0, 2, 3, 4]]
    points[..., 0] = 15 - points[..., 0]
    torch.testing.assert_close(batch.require(Prior.KEYPOINTS), points)
    masks = priors()[Prior.MASKS][rows][:, [2, 1, 0]].flip(3)
    torch.testing.assert_close(batch.require(Prior.MASKS), masks)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    once = loader()
    rows = once.sampler.epoch(0)[0]
    first = once.batch(rows, 0, 0)
    held = first.images[3:5].numpy()  # any view of it counts
    expected, place = held.copy(), first.images.data_ptr()
    del first
    second = once.batch(rows, 0, 1)
    np.testing.assert_array_equal(held, expected)
    assert second.images.data_ptr() != place
    del held
    third = once.batch(rows, 0, 0)
    assert third.images.data_ptr() == place
    np.testing.assert_array_equal(third.images[3:5].numpy(), expected)


def test_two_batches_at_a_time_take_the_memory_of_two() -> None:
    places = [batch.images.data_ptr() for batch in loader(kind="balanced").epoch(0)]
    assert len(places) == 3
    assert len(set(places)) == 2


def test_gradients_keep_the_memory_they_need() -> None:
    once = loader()
    rows = once.sampler.epoch(0)[0]
    images = once.batch(rows, 0, 0).images
    expected = images.clone()
    weight = torch.ones_like(images, requires_grad=True)
    loss = (images * weight).sum()
    del images
    once.batch(rows, 0, 1)  # would overwrite what the backward pass reads
    loss.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, expected)


# --- when and where ---------------------------------------------------------------------------


def test_an_epoch_can_be_entered_in_the_middle() -> None:
    whole = list(loader(kind="balanced", priors=priors()).epoch(3))
    rest = list(loader(kind="balanced", priors=priors()).epoch(3, start=2))
    assert len(rest) == len(whole) - 2 == 1
    for one, other in zip(whole[2:], rest, strict=True):
        assert_equal(one, other)


def test_epochs_steps_and_seeds_differ() -> None:
    images = pictures()[:1].expand(len(LABELS), -1, -1, -1)  # so that only draws can differ
    drawn = [
        next(iter(loader(images=images, seed=seed).epoch(epoch, start=step))).images
        for seed, epoch, step in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    ]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", ["grouped", "balanced", "identity-once", "shuffle"])
@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_processes_make_the_batch_of_one(kind: str, world: int) -> None:
    alone = loader(kind=kind, priors=priors())
    team = [loader(kind=kind, priors=priors(), rank=r, world=world) for r in range(world)]
    for epoch in (0, 1):
        shares = [list(member.epoch(epoch)) for member in team]
        whole = list(alone.epoch(epoch))
        assert {len(s) for s in shares} == {len(whole)}
        for step, batch in enumerate(whole):
            parts = [s[step] for s in shares]
            joined = Batch(
                torch.cat([p.images for p in parts]),
                torch.cat([p.pids for p in parts]),
                torch.cat([p.camids for p in parts]),
                {k: torch.cat([p.require(k) for p in parts]) for k in batch.priors},
            )
            assert_equal(joined, batch)
            if kind != "shuffle":  # P / world people with K pictures each
                for part in parts:
                    assert len(set(part.pids.tolist())) == 4 // world


def test_a_memory_map_serves_as_well_as_memory(tmp_path: Path) -> None:
    from PIL import Image

    paths = []
    for i, picture in enumerate(pictures().numpy()):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(picture).save(paths[-1])
    mapped = ImageStore.build(paths, PRE, budget_bytes=0, cache_dir=tmp_path / "cache")
    assert isinstance(mapped.images, np.memmap)
    for one, other in zip(loader(images=mapped.to(CPU)).epoch(0), loader().epoch(0), strict=True):
        assert_equal(one, other)


def test_labels_come_along_on_the_host() -> None:
    for rank in (0, 1):
        for batch in loader(rank=rank, world=2).epoch(1):
            assert batch.labels is not None
            assert batch.listed_pids() == batch.pids.tolist() == list(batch.labels)
            alone = dataclasses.replace(batch, labels=None)
            assert alone.listed_pids() == batch.listed_pids()


@pytest.mark.gpu
@pytest.mark.parametrize("stored_on", ["cpu", "cuda"])
def test_on_a_gpu_the_bits_are_the_same(stored_on: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    there = loader(
        images=pictures().to(stored_on),
        priors={k: v.to(stored_on) for k, v in priors().items()},
        device=torch.device("cuda"),
    )
    for one, other in zip(there.epoch(0), loader(priors=priors()).epoch(0), strict=True):
        assert one.images.device.type == one.pids.device.type == "cuda"
        assert torch.equal(one.images.cpu(), other.images)
        assert torch.equal(one.pids.cpu(), other.pids)
        assert torch.equal(one.camids.cpu(), other.camids)
        for kind in other.priors:
            torch.testing.assert_close(one.require(kind).cpu(), other.require(kind))


# --- what does not fit ------------------------------------------------------------------------


def test_people_must_be_shared_evenly() -> None:
    with pytest.raises(RecipeError, match=r"sampler\.people=4 cannot be shared by 3 processes"):
        loader(rank=0, world=3)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_process_must_be_one_of_them(rank: int, world: int) -> None:
    with pytest.raises(InputError, match="does not exist"):
        loader(rank=rank, world=world)


def test_counts_must_agree() -> None:
    sampler = make_sampler("grouped", LABELS, 4, 3, seed=0)

    def make(images: torch.Tensor, labels: Any, camids: Any, **options: Any) -> TrainLoader:
        return TrainLoader(
            images, labels, camids, sampler, NOTHING, PRE, seed=0, device=CPU, **options
        )

    with pytest.raises(InputError, match="42 pictures need 42 labels, got 40"):
        make(pictures(), LABELS[:40], CAMIDS)
    with pytest.raises(InputError, match="42 pictures need 42 camids, got 41"):
        make(pictures(), LABELS, CAMIDS[1:])
    with pytest.raises(InputError, match=r"42 pictures need 42 keypoints \(prior\), got 3"):
        make(pictures(), LABELS, CAMIDS, priors={Prior.KEYPOINTS: torch.zeros(3, 1, 3)})
    with pytest.raises(InputError, match="a sampler of 42 pictures does not fit 40"):
        make(pictures()[:40], LABELS[:40], CAMIDS[:40])
