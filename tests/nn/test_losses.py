"""Losses against naive loops over their definitions, closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crosscam.errors import InputError
from crosscam.nn.losses import CenterLoss, batch_hard_triplet, cross_entropy, pairwise_distances


def toy(n: int = 12, dim: int = 5, people: int = 4) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(n, dim, generator=rng, dtype=torch.float64)
    return features, torch.arange(n) % people


def naive_distance(a: Tensor, b: Tensor) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def naive_triplet(
    features: Tensor,
    pids: Tensor,
    margin: float | str,
    squared: bool,
    normalize: bool,
    active: bool,
) -> float:
    rows = [row / row.norm() for row in features] if normalize else list(features)
    terms = []
    for i, anchor in enumerate(rows):
        positives, negatives = [0.0], []
        for j, other in enumerate(rows):
            d = naive_distance(anchor, other)
            d = d * d if squared else d
            if j != i:
                (positives if pids[j] == pids[i] else negatives).append(d)
        if not negatives:
            continue
        gap = max(positives) - min(negatives)
        if isinstance(margin, str):
            terms.append(math.log(1 + math.exp(gap)))
        elif gap + margin > 0 or not active:
            terms.append(max(0.0, gap + margin))
    return sum(terms) / len(terms) if terms else 0.0


class TestPairwiseDistances:
    @pytest.mark.parametrize("squared", [False, True])
    def test_naive(self, squared: bool) -> None:
        a, _ = toy(5)
        b = toy(7)[0] + 1
        d = pairwise_distances(a, b, squared=squared)
        assert d.shape == (5, 7)
        for i in range(5):
            for j in range(7):
                want = naive_distance(a[i], b[j])
                assert d[i, j].item() == pytest.approx(want**2 if squared else want, rel=1e-12)

    def test_hand_worked(self) -> None:
        a = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        want = torch.tensor([[1e-6, 5.0], [5.0, 1e-6]])
        torch.testing.assert_close(pairwise_distances(a), want)

    def test_keeps_digits_far_from_the_origin(self) -> None:
        a = torch.tensor([[1000.0, 1000.0], [1000.0, 1000.25]])
        assert pairwise_distances(a)[0, 1].item() == pytest.approx(0.25, rel=1e-6)

    @pytest.mark.parametrize("squared", [False, True])
    def test_gradients(self, squared: bool) -> None:
        a = toy(4)[0].requires_grad_()
        b = (toy(3)[0] * 2 + 1).requires_grad_()

        def call(a: Tensor, b: Tensor) -> Tensor:
            return pairwise_distances(a, b, squared=squared)

        assert torch.autograd.gradcheck(call, (a, b))
        assert torch.autograd.gradgradcheck(call, (a, b))

    def test_gradient_is_finite_at_distance_zero(self) -> None:
        a = torch.ones(3, 4, requires_grad=True)
        pairwise_distances(a).sum().backward()
        assert a.grad is not None
        assert torch.equal(a.grad, torch.zeros(3, 4))

    def test_half_precision_does_not_overflow(self) -> None:
        a = torch.tensor([[300.0] * 4, [-300.0] * 4], dtype=torch.float16)  # 600^2 > 65504
        d = pairwise_distances(a)
        assert d.dtype == torch.float32
        assert d[0, 1].item() == pytest.approx(1200.0)

    def test_autocast_changes_nothing(self) -> None:
        a = toy()[0].float()
        with torch.autocast("cpu", torch.bfloat16):
            inside = pairwise_distances(a)
        assert torch.equal(inside, pairwise_distances(a))

    def test_wrong_shapes(self) -> None:
        with pytest.raises(InputError, match=r"\[2, 3, 4\]"):
            pairwise_distances(torch.zeros(2, 3, 4))
        with pytest.raises(InputError, match="4, 5"):
            pairwise_distances(torch.zeros(2, 4), torch.zeros(2, 5))


class TestBatchHardTriplet:
    @pytest.mark.parametrize("margin", [0.3, 1.2, 0.0, "soft"])
    @pytest.mark.parametrize("squared", [False, True])
    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("average", ["all", "active"])
    def test_naive(self, margin: float | str, squared: bool, normalize: bool, average: str) -> None:
        features, pids = toy()
        got = batch_hard_triplet(
            features,
            pids,
            margin,  # type: ignore[arg-type]
            squared=squared,
            normalize=normalize,
            average=average,  # type: ignore[arg-type]
        )
        want = naive_triplet(features, pids, margin, squared, normalize, average == "active")
        assert got.item() == pytest.approx(want, rel=1e-6)  # the floor 1e-12 is not in the loop
        assert want > 0

    def test_hand_worked(self) -> None:
        # On a line: person 0 at 0 and 1, person 1 at 3 and 7.
        # d_ap - d_an + 0.3: 1-3 < 0; 1-2 < 0; 4-2+0.3 = 2.3; 4-6 < 0.
        x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        pids = torch.tensor([0, 0, 1, 1])
        assert batch_hard_triplet(x, pids, 0.3).item() == pytest.approx(2.3 / 4)
        assert batch_hard_triplet(x, pids, 0.3, average="active").item() == pytest.approx(2.3)
        # Squared: 16 - 4 + 0.3 for the third anchor.
        assert batch_hard_triplet(x, pids, 0.3, squared=True).item() == pytest.approx(12.3 / 4)

    def test_all_features_equal_is_the_margin(self) -> None:
        x, pids = torch.ones(8, 16), torch.arange(8) // 2
        assert batch_hard_triplet(x, pids, 0.3).item() == pytest.approx(0.3)
        assert batch_hard_triplet(x, pids, "soft").item() == pytest.approx(math.log(2))

    @pytest.mark.parametrize("margin", [0.3, "soft"])
    def test_one_identity_is_zero_with_a_graph(self, margin: float) -> None:
        x = toy(4)[0].requires_grad_()
        loss = batch_hard_triplet(x, torch.zeros(4, dtype=torch.int64), margin)
        loss.backward()
        assert loss.item() == 0.0
        assert x.grad is not None
        assert torch.equal(x.grad, torch.zeros_like(x))

    def test_no_active_anchor_is_zero(self) -> None:
        x = torch.tensor([[0.0], [0.1], [9.0], [9.1]], requires_grad=True)
        loss = batch_hard_triplet(x, torch.tensor([0, 0, 1, 1]), 0.3, average="active")
        loss.backward()
        assert loss.item() == 0.0
        assert x.grad is not None
        assert torch.equal(x.grad, torch.zeros_like(x))

    def test_single_image_of_a_person_is_its_own_positive(self) -> None:
        x = torch.tensor([[0.0], [0.2]], requires_grad=True)
        loss = batch_hard_triplet(x, torch.tensor([0, 1]), 0.3)
        loss.backward()
        assert loss.item() == pytest.approx(0.1, abs=2e-6)
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()

    def test_all_people_different(self) -> None:
        features, _ = toy(6)
        got = batch_hard_triplet(features, torch.arange(6), 2.0)
        want = naive_triplet(features, torch.arange(6), 2.0, False, False, False)
        assert got.item() == pytest.approx(want, rel=1e-6)

    @pytest.mark.parametrize("margin", [0.3, "soft"])
    @pytest.mark.parametrize("squared", [False, True])
    @pytest.mark.parametrize("average", ["all", "active"])
    def test_gradients(self, margin: float, squared: bool, average: str) -> None:
        features, pids = toy(8, 3, 2)

        def call(x: Tensor) -> Tensor:
            return batch_hard_triplet(
                x,
                pids,
                margin,
                squared=squared,
                normalize=True,
                average=average,  # type: ignore[arg-type]
            )

        x = features.requires_grad_()
        assert torch.autograd.gradcheck(call, (x,))
        assert torch.autograd.gradgradcheck(call, (x,))

    def test_half_precision_does_not_overflow(self) -> None:
        x = torch.tensor([[300.0] * 4, [-300.0] * 4], dtype=torch.float16)
        loss = batch_hard_triplet(x, torch.tensor([0, 1]), 1300.0)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(100.0, abs=1e-3)

    def test_traces_without_a_break(self) -> None:
        features, pids = toy()
        traced = torch.compile(batch_hard_triplet, fullgraph=True, backend="eager")
        assert torch.equal(traced(features, pids, 0.3), batch_hard_triplet(features, pids, 0.3))

    def test_bad_input(self) -> None:
        x, pids = toy()
        with pytest.raises(InputError, match=r"\[12, 5\] and \[11\]"):
            batch_hard_triplet(x, pids[:-1])
        with pytest.raises(InputError, match="'hard'"):
            batch_hard_triplet(x, pids, "hard")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="'some'"):
            batch_hard_triplet(x, pids, average="some")  # type: ignore[arg-type]


class TestCrossEntropy:
    @pytest.mark.parametrize("form", ["uniform", "others"])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
    def test_naive(self, form: str, smoothing: float) -> None:
        logits, targets = toy(6, 7)
        targets = targets % 7
        want = 0.0
        for row, y in zip(logits.tolist(), targets.tolist(), strict=True):
            norm = math.log(sum(math.exp(v) for v in row))
            for k, v in enumerate(row):
                if form == "uniform":
                    q = (1 - smoothing) * (k == y) + smoothing / 7
                else:
                    q = 1 - smoothing if k == y else smoothing / 6
                want -= q * (v - norm) / 6
        got = cross_entropy(logits, targets, smoothing, form=form)  # type: ignore[arg-type]
        assert got.item() == pytest.approx(want, rel=1e-12)

    @pytest.mark.parametrize("form", ["uniform", "others"])
    def test_uniform_logits_cost_log_n(self, form: str) -> None:
        logits, targets = torch.zeros(5, 751), torch.arange(5)
        got = cross_entropy(logits, targets, 0.1, form=form)  # type: ignore[arg-type]
        assert got.item() == pytest.approx(math.log(751), rel=1e-6)

    def test_agrees_with_torch(self) -> None:
        logits, targets = toy(6, 7)
        want = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
        torch.testing.assert_close(cross_entropy(logits, targets, 0.1), want)

    @pytest.mark.parametrize("form", ["uniform", "others"])
    def test_weights_multiply_the_terms_of_rows(self, form: str) -> None:
        logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
        weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.0, 1.0])
        naive = sum(
            w * cross_entropy(row[None], target[None], 0.1, form=form)
            for w, row, target in zip(weights, logits, targets, strict=True)
        )
        got = cross_entropy(logits, targets, 0.1, form=form, weights=weights)
        torch.testing.assert_close(got, naive / 6)
        with pytest.raises(InputError, match="weights"):
            cross_entropy(logits, targets, weights=weights[:3])

    @pytest.mark.parametrize("form", ["uniform", "others"])
    def test_gradients(self, form: str) -> None:
        logits, targets = toy(4, 6)

        def call(x: Tensor) -> Tensor:
            return cross_entropy(x, targets, 0.1, form=form)  # type: ignore[arg-type]

        assert torch.autograd.gradcheck(call, (logits.requires_grad_(),))
        assert torch.autograd.gradgradcheck(call, (logits,))

    def test_half_precision(self) -> None:
        logits = torch.tensor([[60000.0, -60000.0]], dtype=torch.float16)
        loss = cross_entropy(logits, torch.tensor([1]))
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(119968.0, rel=1e-3)  # 2 * 60000 as float16 stores it
        with torch.autocast("cpu", torch.bfloat16):
            assert cross_entropy(logits.float(), torch.tensor([1])).dtype == torch.float32

    @pytest.mark.parametrize("form", ["uniform", "others"])
    def test_one_identity_costs_nothing(self, form: str) -> None:
        loss = cross_entropy(
            torch.randn(3, 1),
            torch.zeros(3, dtype=torch.int64),
            0.1,
            form=form,  # type: ignore[arg-type]
        )
        assert loss.item() == 0.0

    def test_bad_input(self) -> None:
        logits, targets = torch.zeros(2, 3), torch.tensor([0, 3])
        with pytest.raises(InputError, match=r"0\.\.2, got 0\.\.3"):
            cross_entropy(logits, targets)
        with pytest.raises(InputError, match="smoothing"):
            cross_entropy(logits, targets, 1.0)
        with pytest.raises(InputError, match="'b'"):
            cross_entropy(logits, targets, form="b")  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"\[2, 3\] and \[1\]"):
            cross_entropy(logits, targets[:1])


class TestCenterLoss:
    def test_naive(self) -> None:
        features, pids = toy()
        loss = CenterLoss(4, 5).double()
        centers = loss.centers.tolist()
        want = sum(
            sum((x - c) ** 2 for x, c in zip(row, centers[y], strict=True))
            for row, y in zip(features.tolist(), pids.tolist(), strict=True)
        )
        assert loss(features, pids).item() == pytest.approx(want / 12, rel=1e-12)

    def test_gradient_of_a_center_in_closed_form(self) -> None:
        # d/dc mean_i |x_i - c_{y_i}|^2 = 2/B * sum over its own rows of (c - x).
        features, pids = toy()
        loss = CenterLoss(5, 5).double()  # identity 4 is not in the batch
        loss(features, pids).backward()
        assert loss.centers.grad is not None
        for k in range(5):
            own = features[pids == k]
            want = 2 / 12 * (loss.centers[k].detach() - own).sum(0)
            torch.testing.assert_close(loss.centers.grad[k], want)
        assert torch.equal(loss.centers.grad[4], torch.zeros(5, dtype=torch.float64))

    def test_gradcheck(self) -> None:
        features, pids = toy(4)
        loss = CenterLoss(4, 5).double()
        assert torch.autograd.gradcheck(lambda x: loss(x, pids), (features.requires_grad_(),))
        assert torch.autograd.gradgradcheck(lambda x: loss(x, pids), (features,))

    def test_a_loss_on_its_gradient_does_not_move_the_centers(self) -> None:
        features, pids = toy(4)
        loss = CenterLoss(4, 5).double()
        value = loss(features.requires_grad_(), pids)
        [gradient] = torch.autograd.grad(value, features, create_graph=True)
        (value + 0.7 * gradient.norm()).backward()
        together, loss.centers.grad = loss.centers.grad, None
        loss(features, pids).backward()
        assert together is not None
        assert torch.equal(together, loss.centers.grad)

    def test_half_precision_does_not_overflow(self) -> None:
        loss = CenterLoss(1, 4)
        torch.nn.init.zeros_(loss.centers)
        value = loss(torch.full((2, 4), 300.0, dtype=torch.float16), torch.zeros(2).long())
        assert value.item() == pytest.approx(4 * 300.0**2)
        assert value.dtype == torch.float32

    def test_centers_start_standard_normal(self) -> None:
        torch.manual_seed(0)
        centers = CenterLoss(500, 200).centers.detach()
        assert abs(centers.mean().item()) < 0.02  # 6 standard errors of 100,000 draws
        assert abs(centers.std().item() - 1) < 0.02

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match=r"\[B, 5\]"):
            CenterLoss(4, 5)(torch.zeros(2, 6), torch.zeros(2).long())
        with pytest.raises(InputError, match=r"0\.\.3, got -1"):
            CenterLoss(4, 5)(torch.zeros(2, 5), torch.tensor([-1, 0]))
        with pytest.raises(InputError, match="num_classes"):
            CenterLoss(0, 5)
