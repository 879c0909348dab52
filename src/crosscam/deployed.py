"""The network as it leaves the lab: what ``embed`` reads, how it is fed, and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import crosscam
from crosscam import embedder
from crosscam.card import FILES, NO_FIGURES, Card, TrainedOn, file_entry
from crosscam.embedder import Embedder
from crosscam.errors import CheckpointError, RecipeError
from crosscam.methods import Method, available, unit
from crosscam.recipe import Recipe, parse
from crosscam.training import checkpoint
from crosscam.training.process import pick_device

__all__ = ["Deployed", "card_of_run", "load", "training_only"]

TERMS = {
    "rendered": "rendered people, nobody is shown; no terms",
    "csv": "own pictures, terms not stated",
    "folder": "own pictures, terms not stated",
    "dukemtmc": "withdrawn by its owners, who ask that it is not used",
    "occluded-duke": "made of pictures that their owners withdrew and ask not to be used",
}
"""What the owners of a data set allow, where it is not research only."""

_RESEARCH = "for research only, on the terms of its owners"
_RESEARCH_ONLY = "research only, by the terms of the training data"

LIMITS = (
    "Compares what people wear and carry, not faces: who changes clothes is somebody new, and two "
    "people dressed alike look alike.",
    "Expects one upright person per picture, cropped closely.",
)


class Deployed(nn.Module):
    """Pictures uint8 [N, H, W, 3] RGB to unit vectors [N, D]: all that stands in an ONNX file."""

    def __init__(self, method: Method, recipe: Recipe) -> None:
        super().__init__()
        self.method, self.flip = method, recipe.test.flip
        shift, scale = recipe.preprocess.shift_and_scale()
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.from_numpy(shift))
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, pictures: Tensor) -> Tensor:
        images = (pictures.to(torch.float32) - self.shift) * self.scale
        images = images.permute(0, 3, 1, 2)
        features = self.method.embed(images)
        if self.flip:
            features = unit(features + self.method.embed(images.flip(3)))
        return features


def training_only(method: Method, size: tuple[int, int]) -> list[str]:
    """Names of the parameters that ``embed`` does not read: classifiers, centers, decoders.

    They are those that no gradient of the features reaches.
    """
    method.eval()
    wanted = {name: p.requires_grad for name, p in method.named_parameters()}
    pictures = torch.zeros(2, 3, *size, device=next(method.parameters()).device)
    try:
        method.requires_grad_(True)
        features = method.embed(pictures)
        if not features.requires_grad:  # it computes without gradients, and nothing can be told
            return []
        named = dict(method.named_parameters())
        reached = torch.autograd.grad(features.sum(), list(named.values()), allow_unused=True)
        return [name for name, g in zip(named, reached, strict=True) if g is None]
    finally:
        for name, p in method.named_parameters():
            p.requires_grad_(wanted[name])


def card_of_run(
    run: Path, recipe: Recipe, card: dict[str, Any], dim: int, parts: dict[str, tuple[int, int]]
) -> Card:
    """The card of a finished run, whose own weights it lists.

    Terms and license are what is known of the data set; figures are those of ``crosscam
    evaluate``.
    """
    data, on = recipe.data.name, card["trained_on"]
    elsewhere = ("trained_on", "paper", "method", "license")
    terms = on.get("terms") or TERMS.get(data, _RESEARCH)
    pretrained = getattr(recipe.method.options.get("backbone"), "pretrained", None)
    settings = yaml.safe_load(recipe.to_yaml())
    for key in ("root", "cache"):  # places on the machine that trained
        settings["data"].pop(key, None)
    if isinstance(settings["data"].get("pairs"), str):
        settings["data"].pop("pairs")
    return Card(
        name=run.resolve().name,
        method=Path(recipe.method.name).stem,
        trained_on=TrainedOn(
            title=on["title"],
            terms=terms,
            images=on.get("images"),
            identities=on.get("identities"),
            cameras=on.get("cameras"),
            start=Path(str(pretrained)).name if pretrained else "random weights",
        ),
        license=card.get("license") or (_RESEARCH_ONLY if terms == _RESEARCH else "not stated"),
        dim=dim,
        preprocess=recipe.test_preprocess,
        format="torch",
        precision="fp32",
        files={name: file_entry(run / name) for name in FILES["torch"]},
        metric=recipe.test.metric,
        flip=recipe.test.flip,
        recipe=settings,
        paper=str(card.get("paper", "")),
        figures=tuple(_figures(run)),
        limits=LIMITS,
        parts=parts,
        crosscam=crosscam.__version__,
        training={k: v for k, v in card.items() if k not in elsewhere},
    )


def load(folder: Path, card: Card | None, *, device: str) -> tuple[Embedder, Card]:
    """The network of a run folder (``card=None``) or of an encoder in torch format.

    Of an encoder, no code is run but this package's: its method must be one of those that come
    with crosscam, and its weights are safetensors.

    Raises:
        CheckpointError: the files do not fit each other, or the method is not known here.
    """
    if card is None:
        method, recipe, run_card = embedder.load_method(folder)
        where = pick_device(device)
        own = card_of_run(folder, recipe, run_card, method.dim, parts_of(method))
        model = embedder.of_method(method, recipe, name=own.name, device=str(where), card=run_card)
        return model, own
    try:
        text = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        name = text["method"]["name"]
        if name not in available():  # a file would be code of somebody else's
            raise CheckpointError(
                f"{folder} needs the method '{name}', which does not come with this version of "
                f"crosscam ({', '.join(available())}). Export the run as ONNX, or install a newer "
                "crosscam."
            )
        recipe = parse(folder / "recipe.yaml")
        method = recipe.method.blank.build(int(card.training["num_classes"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecipeError) as error:
        raise CheckpointError(
            f"{folder}/recipe.yaml does not describe a network of this version ({error}). Copy "
            "the folder again, or export the run again."
        ) from error
    weights = checkpoint.load_weights(folder / FILES["torch"][0])
    dropped = set(card.training.get("training_only", ()))
    state = method.state_dict()
    misfit = sorted((set(state) - set(weights) - dropped) | (set(weights) - set(state)))
    misfit += [k for k, v in weights.items() if k in state and v.shape != state[k].shape]
    if misfit:
        raise CheckpointError(
            f"{folder}/{FILES['torch'][0]} does not fit the method of its recipe: "
            f"{', '.join(misfit[:5])}{' ...' if len(misfit) > 5 else ''}."
        )
    method.load_state_dict(weights, strict=False)
    return embedder.of_method(method, recipe, name=card.name, device=device), card


def parts_of(method: Method) -> dict[str, tuple[int, int]]:
    """Where the vector of a method describes which part of the body."""
    slices = getattr(method, "slices", {})
    return {k: s.indices(method.dim)[:2] for k, s in slices.items()}


def _figures(run: Path) -> list[dict[str, Any]]:
    """What ``crosscam evaluate`` measured of a run, without paths and times."""
    found = []
    for path in sorted(run.glob("evaluation/*/evaluation.json")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(values, dict):
            kept = {k: v for k, v in values.items() if k not in NO_FIGURES}
            figure = {"title": path.parent.name, **kept}
            if figure not in found:
                found.append(figure)
    return found
