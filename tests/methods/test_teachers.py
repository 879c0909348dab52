"""Teachers: what a composition adds to a method, and what it leaves alone."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosscam.errors import DataError, RecipeError
from crosscam.methods import BackboneSettings, Method, find
from crosscam.methods.mmga import mask_distance
from crosscam.nn.texture_decoder import texture_loss
from crosscam.recipe import parse
from crosscam.types import Batch, Prior

SMALL = BackboneSettings("resnet18", last_stride=1, width=0.25)
NARROW: dict[str, dict[str, Any]] = {
    "mpn": {"width": 16, "num_parts": 2},
    "san": {"decoder_width": 0.125, "embedding": 32},
    "baseline": {},
    "texture": {"texture_width": 0.125},
    "guidance": {},
}
COMPOSED = ["mpn+texture", "mpn+guidance", "baseline+guidance+texture", "san+guidance"]


def build(name: str, **settings: Any) -> Method:
    torch.manual_seed(0)
    for part in name.split("+"):
        settings = NARROW[part] | settings
    return find(name)(4, backbone=SMALL, **settings)


def batch(method: Method, size: tuple[int, int] = (64, 32)) -> Batch:
    random = torch.Generator().manual_seed(3)
    pids = torch.arange(4).repeat_interleave(2)
    priors = {
        Prior.MASKS: torch.rand(8, max(len(method.parts), 1), *size, generator=random),
        Prior.TEXTURE: torch.rand(8, 3, 64, 64, generator=random) * 2 - 1,
    }
    images = torch.randn(8, 3, *size, generator=random)
    given = {k: v for k, v in priors.items() if k in method.needs}
    return Batch(images, pids, torch.zeros_like(pids), given)


@pytest.fixture(params=COMPOSED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_terms_of_the_method_stay_and_those_of_the_teacher_join(name: str) -> None:
    composed = build(name).train()
    base, *teachers = name.split("+")
    alone = set(build(base).train().losses(batch(build(base))))
    assert set(composed.losses(batch(composed))) == alone | set(teachers)


def test_texture_changes_nothing_of_what_the_method_computes() -> None:
    composed, plain = build("mpn+texture").train(), build("mpn").train()
    plain.load_state_dict(
        {k: v for k, v in composed.state_dict().items() if not k.startswith("painter.")}
    )
    given = batch(composed)
    terms, own = composed.losses(given), plain.losses(given)
    for key in own:
        assert torch.equal(terms[key], own[key])
    images = given.images
    assert torch.equal(composed.eval().embed(images), plain.eval().embed(images))


def test_the_texture_term_is_that_of_the_stage_maps() -> None:
    composed = build("mpn+texture", texture=0.3).eval()
    given = batch(composed)
    painted = composed.painter(composed.backbone.stages(given.images)).texture
    expected = 0.3 * texture_loss(painted, given.priors[Prior.TEXTURE])
    torch.testing.assert_close(composed.losses(given)["texture"], expected)


def test_guidance_multiplies_a_stage_map_and_pulls_it_to_the_whole_mask() -> None:
    composed = build("baseline+guidance", guidance_stages=(2,), guidance=0.5).eval()
    given = batch(composed)
    net, guide = composed.backbone, composed.guide
    u = net.stage1(net.stem(given.images))
    logits = guide.cells["2"](u, (8, 4))
    gate = guide.gates["2"](u)[:, :, None, None]
    v = net.layer2[1](net.layer2[0](u)) * gate * (1 + torch.sigmoid(logits)[:, None])
    torch.testing.assert_close(net.stages(given.images)[1], v)
    far = mask_distance(logits, given.priors[Prior.MASKS][:, 0], torch.ones(8), "mse")
    torch.testing.assert_close(composed.losses(given)["guidance"], 0.5 * far)
    shown = composed.maps(given.images)["attention, stage 2"]
    torch.testing.assert_close(shown, torch.sigmoid(logits))


def test_each_reads_its_own_masks() -> None:
    composed = build("mpn+guidance", prior="parsing", regions=("head", "legs"))
    assert composed.parts == ("head", "legs", "whole")
    given = batch(composed)
    masks = given.priors[Prior.MASKS]
    before = composed.train().losses(given)
    masks[:, 2] = 1 - masks[:, 2]  # the teacher's
    after = composed.losses(given)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"guidance"}


def test_every_parameter_learns(name: str) -> None:
    composed = build(name).train()
    sum(composed.losses(batch(composed)).values(), torch.zeros(())).backward()
    dead = [
        key
        for key, p in composed.named_parameters()
        if p.requires_grad and (p.grad is None or not float(p.grad.abs().sum()) > 0)
    ]
    assert not dead


def test_the_updates_move_each_parameter_and_name_each_term_once(name: str) -> None:
    composed = build(name).train()
    given, names, moved = batch(composed), [], set[nn.Parameter]()
    for number, update in enumerate(composed.updates()):
        names += composed(given, number)
        listed = list(update.parameters())
        assert len(listed) == len(set(listed))
        moved |= set(listed)
    assert sorted(names) == sorted(composed.losses(given))
    assert moved == set(composed.parameters())


def test_deployed_is_the_method_and_its_attention_and_no_prior(name: str, tmp_path: Path) -> None:
    composed = build(name)
    images = batch(composed).images
    features = composed.eval().embed(images)
    assert features.shape == (8, composed.dim)
    save_file(composed.state_dict(), tmp_path / "w.safetensors")
    other = build(name)
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(other.eval().embed(images), features)
    copied = copy.deepcopy(composed)
    with torch.no_grad():
        for p in composed.parameters():
            p.zero_()
    assert torch.equal(copied.embed(images), features)  # the copy has its own attention


@pytest.mark.slow
def test_a_guided_method_exports() -> None:
    composed = build("mpn+guidance").eval()

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.method = composed

        def forward(self, images: Tensor) -> Tensor:
            return self.method.embed(images)

    images = batch(composed).images[:3]
    rows = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Deployed(), (images,), dynamic_shapes=({0: rows},))
    torch.testing.assert_close(program.module()(images[:2]), composed.embed(images[:2]))


def test_the_gradient_regularizer_sees_what_the_teacher_adds() -> None:
    composed = build("mpn+texture", msgr=0.01).train()
    terms = composed(batch(composed))
    assert {"texture", "msgr"} <= set(terms)
    terms["msgr"].backward()
    assert any(p.grad is not None for p in composed.painter.parameters())


def test_a_missing_prior_is_named() -> None:
    composed = build("baseline+guidance+texture")
    assert composed.needs == {Prior.MASKS, Prior.TEXTURE}
    with pytest.raises(DataError, match="prior"):
        composed.losses(dataclasses.replace(batch(composed), priors={}))


def test_a_recipe_of_two_lines() -> None:
    recipe = parse(None, ["method=mpn+guidance", "method.guidance=0.5", "method.prior=extent"])
    assert recipe.method.options["guidance"] == 0.5
    assert recipe.sampler.kind == "balanced"  # MPN's own settings
    small = {**recipe.method.options, "backbone": SMALL}
    composed = find(recipe.method.name)(4, **small)
    assert composed.parts[-1] == "whole"
    assert composed.parts[:1] == ("whole",)  # MPN's extent reads it too


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mpn+guidnce", "Did you mean 'guidance'"),
        ("mpn+texture+texture", "once"),
        ("mpm+texture", "Did you mean 'mpn'"),
    ],
)
def test_what_cannot_be_composed_is_named(wrong: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        find(wrong)


def test_a_teacher_needs_stages_to_stand_on(tmp_path: Path) -> None:
    composed = find("mmga+guidance")(4, backbone=SMALL, guidance_stages=(3,))
    given = batch(composed)
    with pytest.raises(RecipeError, match="does not run stage 3"):
        composed.losses(given)
    with pytest.raises(RecipeError, match="stages 2 to 4"):
        build("mpn+guidance", guidance_stages=(1,))
    own = tmp_path / "own.py"
    own.write_text(
        '"""Own."""\n'
        "from crosscam.methods import Method\n\n\n"
        "class Own(Method):\n"
        '    """Own."""\n\n    paper = "none"\n\n'
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n\n"
        "    def embed(self, images):\n        return images\n\n"
        "    def losses(self, batch):\n        return {}\n"
    )
    with pytest.raises(RecipeError, match=r"`self\.backbone`, and this method has none"):
        find(f"{own}+guidance")(4)
