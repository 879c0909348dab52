"""Who a rendered person is: a seed becomes body, hair, clothes and things carried.

Everything about a person that stays the same from picture to picture is in ``Identity``; it is
small, prints well and goes into the manifest.  Colors are display values in [0, 1] (sRGB-like).

*Outfit families* make hard negatives: a block of four consecutive ids may wear one outfit with
small differences, and must be told apart by body, hair, shoes and what they carry.  How often is
a setting; ClonedPerson (Wang et al., CVPR 2022) found similar clothes worth rendering.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.synth.body import body
from crosscam.synth.closet import Closet

__all__ = ["Bottom", "Identity", "Outfit", "Top", "draw_identity"]

Array = npt.NDArray[Any]
Color = tuple[float, float, float]

FAMILY = 4
"""Ids in an outfit family: consecutive, starting at a multiple of it."""


@dataclass(frozen=True)
class Top:
    """What covers the upper body.  Heights are canonical meters, lengths shares of the limb."""

    kind: str  # tee polo shirt tank sweater hoodie jacket open coat suit dress
    colors: tuple[Color, Color, Color]
    pattern: str
    period: float  # meters from stripe to stripe
    sleeve: float  # 0 at the shoulder, 1 at the wrist
    hem: float  # canonical height
    ease: float  # meters between skin and cloth
    neck: float  # how deep the neckline falls at the front, meters
    print: str  # "" or what is printed: text emblem number band
    print_back: bool
    contrast_sleeves: bool


@dataclass(frozen=True)
class Bottom:
    """What covers the legs."""

    kind: str  # trousers jeans cargo track leggings shorts skirt none (a dress or coat hides it)
    colors: tuple[Color, Color]
    pattern: str
    hem: float
    ease: float
    flare: float  # of skirts, meters of radius per meter of height


@dataclass(frozen=True)
class Outfit:
    """Clothes and shoes."""

    top: Top
    bottom: Bottom
    shoes: tuple[Color, Color]  # upper, sole
    shaft: float  # canonical height shoes reach
    socks: Color | None


@dataclass(frozen=True)
class Identity:
    """A person, all that is the same in each picture of them."""

    seed: tuple[int, ...]
    female: bool
    row: int  # of the table of bodies
    row2: int
    mix: float  # share of the second body
    skin: Color
    hair: str  # bald crop short bob long ponytail bun
    hair_color: Color
    hair_length: float  # 0..1
    outfit: Outfit
    hat: str  # "" cap beanie sunhat
    hat_color: Color
    glasses: str  # "" clear dark
    mask: Color | None
    bag: str  # "" backpack shoulder handbag tote suitcase
    bag_colors: tuple[Color, Color]
    bag_size: float
    bag_side: int  # 1 left, -1 right
    umbrella: Color | None
    family: int  # first id of the outfit family, -1 for none
    suit: str = ""  # asset worn in place of top and bottom of our own
    footwear: str = ""
    hair_mesh: str = ""
    hat_mesh: str = ""

    @property
    def holds(self) -> str:
        """What binds the hands: "umbrella", "bag" or ""."""
        if self.umbrella is not None:
            return "umbrella"
        return "bag" if self.bag in ("handbag", "tote", "suitcase") else ""


def _rgb(hue: float, saturation: float, value: float) -> Color:
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return (r, g, b)


# What pedestrians wear, as (share, hue or -1 for gray, its spread, saturation, value), the
# latter two as ranges.  Shares were set by eye against street scenes: half is black, gray, white.
_TOP_COLORS = (
    (0.20, 0.62, 0.10, (0.00, 0.12), (0.05, 0.17)),  # black
    (0.18, 0.10, 0.10, (0.00, 0.06), (0.80, 0.96)),  # white
    (0.14, 0.60, 0.10, (0.00, 0.08), (0.25, 0.72)),  # gray
    (0.08, 0.63, 0.03, (0.35, 0.75), (0.13, 0.32)),  # navy
    (0.08, 0.60, 0.03, (0.25, 0.75), (0.40, 0.85)),  # blue
    (0.07, 0.98, 0.02, (0.55, 0.88), (0.45, 0.85)),  # red
    (0.04, 0.95, 0.04, (0.15, 0.50), (0.70, 0.95)),  # pink
    (0.05, 0.36, 0.07, (0.25, 0.75), (0.25, 0.75)),  # green
    (0.03, 0.14, 0.02, (0.45, 0.85), (0.75, 0.95)),  # yellow
    (0.02, 0.06, 0.02, (0.60, 0.90), (0.70, 0.95)),  # orange
    (0.05, 0.08, 0.02, (0.20, 0.50), (0.45, 0.85)),  # beige, brown
    (0.03, 0.77, 0.05, (0.20, 0.65), (0.30, 0.75)),  # purple
    (0.03, 0.48, 0.04, (0.25, 0.65), (0.45, 0.80)),  # turquoise
)
_BOTTOM_COLORS = (
    (0.34, 0.62, 0.10, (0.00, 0.14), (0.05, 0.17)),  # black
    (0.16, 0.61, 0.02, (0.25, 0.60), (0.22, 0.45)),  # blue cloth
    (0.18, 0.60, 0.10, (0.00, 0.10), (0.25, 0.60)),  # gray
    (0.14, 0.09, 0.02, (0.18, 0.45), (0.45, 0.78)),  # khaki
    (0.06, 0.10, 0.05, (0.00, 0.08), (0.78, 0.93)),  # white
    (0.05, 0.22, 0.04, (0.20, 0.45), (0.25, 0.42)),  # olive
    (0.04, 0.06, 0.02, (0.30, 0.60), (0.18, 0.35)),  # brown
    (0.03, 0.98, 0.06, (0.40, 0.80), (0.35, 0.75)),  # red
)
_DENIM = ((1.0, 0.60, 0.015, (0.22, 0.62), (0.22, 0.66)),)
_SKIN = (
    ((0.84, 0.67, 0.56), 0.24),
    ((0.79, 0.61, 0.48), 0.30),
    ((0.72, 0.53, 0.40), 0.20),
    ((0.62, 0.43, 0.31), 0.12),
    ((0.52, 0.36, 0.26), 0.08),
    ((0.36, 0.24, 0.18), 0.06),
)
_HAIR = (
    ((0.07, 0.06, 0.06), 0.46),
    ((0.13, 0.10, 0.08), 0.22),
    ((0.22, 0.15, 0.10), 0.12),
    ((0.36, 0.25, 0.16), 0.07),
    ((0.58, 0.44, 0.28), 0.04),
    ((0.45, 0.22, 0.12), 0.02),
    ((0.50, 0.50, 0.50), 0.04),
    ((0.76, 0.75, 0.73), 0.03),
)
_LEATHER = (
    (0.55, 0.62, 0.10, (0.00, 0.15), (0.05, 0.20)),
    (0.15, 0.07, 0.02, (0.35, 0.65), (0.22, 0.55)),
    (0.10, 0.60, 0.05, (0.00, 0.06), (0.70, 0.93)),
    (0.10, 0.62, 0.05, (0.30, 0.70), (0.25, 0.60)),
    (0.10, 0.98, 0.10, (0.40, 0.85), (0.40, 0.85)),
)


def _draw_color(rng: np.random.Generator, table: Any) -> Color:
    shares = np.array([row[0] for row in table])
    _, hue, spread, saturation, value = table[rng.choice(len(table), p=shares / shares.sum())]
    return _rgb(rng.normal(hue, spread), rng.uniform(*saturation), rng.uniform(*value))


def _draw_listed(rng: np.random.Generator, table: Any, jitter: float = 0.025) -> Color:
    shares = np.array([share for _, share in table])
    color = table[rng.choice(len(table), p=shares / shares.sum())][0]
    shift = rng.normal(0, jitter) + rng.normal(0, 0.4 * jitter, 3)
    r, g, b = (float(min(max(c + s, 0.02), 0.98)) for c, s in zip(color, shift, strict=True))
    return (r, g, b)


def _pick(rng: np.random.Generator, **chances: float) -> str:
    names = list(chances)
    p = np.array([chances[n] for n in names])
    return names[int(rng.choice(len(names), p=p / p.sum()))]


@lru_cache(maxsize=1)
def _body_rows() -> dict[tuple[bool, bool], tuple[Array, Array]]:
    """(rows of the body table, their shares) by (female, child), people of usual height only.

    The table holds as many heavy people as light ones; on the street most are light.
    """
    shared = body()
    top = int(shared.canonical[:, 2].argmax())
    height = np.array([float(c @ shared._basis[:, top, 2]) for c in shared.coefficients])
    height += float(shared.canonical[top, 2])
    female = shared.traits["gender"] > 0.5
    child = shared.traits["age"] < 0.53
    usual = (height > np.where(child, 1.15, 1.48)) & (height < np.where(female, 1.84, 1.97))
    often = 0.08 + np.exp(-(((shared.traits["weight"] - 0.38) / 0.15) ** 2))
    out = {}
    for f in (False, True):
        for c in (False, True):
            rows = np.flatnonzero(usual & (female == f) & (child == c))
            shares = often[rows].astype(np.float64)
            out[f, c] = rows, shares / shares.sum()
    return out


def draw_outfit(rng: np.random.Generator, female: bool) -> Outfit:
    """Clothes of one person."""
    dress = female and rng.random() < 0.16
    kind = (
        "dress"
        if dress
        else _pick(
            rng,
            tee=0.36,
            polo=0.05 if female else 0.09,
            shirt=0.10,
            tank=0.08 if female else 0.02,
            sweater=0.10,
            hoodie=0.08,
            jacket=0.09,
            open=0.09,
            coat=0.05,
            suit=0.02 if female else 0.05,
        )
    )
    short = kind in ("tee", "polo", "dress") or (kind == "shirt" and rng.random() < 0.4)
    sleeve = rng.uniform(0.22, 0.42) if short else rng.uniform(0.90, 1.0)
    if kind in ("shirt", "sweater", "open") and sleeve > 0.8 and rng.random() < 0.2:
        sleeve = rng.uniform(0.55, 0.65)  # rolled up
    if kind == "tank" or (dress and rng.random() < 0.4):
        sleeve = -1.0
    ease = {
        "tank": 0.008,
        "sweater": 0.022,
        "hoodie": 0.03,
        "jacket": 0.035,
        "open": 0.03,
        "coat": 0.04,
        "suit": 0.025,
    }.get(kind, 0.014) * rng.uniform(0.7, 1.4)
    if female and kind in ("tee", "shirt"):
        ease *= 0.65
    main = _draw_color(rng, _TOP_COLORS)
    second = _draw_color(rng, _TOP_COLORS)
    third = _draw_color(rng, _TOP_COLORS)
    if kind in ("suit", "coat", "jacket") and rng.random() < 0.6:
        main = _draw_color(rng, _BOTTOM_COLORS)
    if kind in ("open", "suit"):
        second = _draw_color(rng, _TOP_COLORS[:3] if rng.random() < 0.6 else _TOP_COLORS)
    busy = {"shirt": 0.55, "dress": 0.55, "suit": 0.03, "coat": 0.08, "open": 0.2}.get(kind, 0.26)
    pattern = "plain"
    if rng.random() < busy:
        pattern = _pick(
            rng,
            stripes=0.28,
            pinstripe=0.08,
            check=0.28 if kind == "shirt" else 0.10,
            blocks=0.16,
            dots=0.08,
            flowers=0.22 if female else 0.05,
            camo=0.05,
            fade=0.06,
        )
    printed = ""
    if pattern == "plain" and kind in ("tee", "sweater", "hoodie", "tank") and rng.random() < 0.5:
        printed = _pick(rng, text=0.35, emblem=0.4, number=0.1, band=0.15)
    hem = rng.uniform(0.86, 0.96)
    if kind in ("shirt", "polo", "suit") and rng.random() < 0.35:
        hem = rng.uniform(1.0, 1.05)  # tucked in
    if kind == "jacket":
        hem = rng.uniform(0.90, 1.0)
    bottom = _draw_bottom(rng, female, sleeve < 0.5)
    if kind == "dress":
        bottom = replace(
            bottom,
            kind="none",
            hem=rng.uniform(0.36, 0.72),
            flare=rng.uniform(0.0, 0.35),
            colors=(main, second),
            pattern=pattern,
        )
        hem = 1.04
    elif kind == "coat":
        hem = rng.uniform(0.45, 0.75)
    leather = rng.random() < 0.35
    upper = _draw_color(rng, _LEATHER if leather else _TOP_COLORS)
    sole = upper if leather else _rgb(0.1, 0.03, rng.choice([0.1, 0.85, 0.9]))
    shaft = 0.105 if rng.random() < 0.8 else rng.uniform(0.14, 0.40 if female else 0.2)
    socks = None
    if rng.random() < 0.4:
        socks = _rgb(0.6, 0.05, rng.choice([0.1, 0.4, 0.9]))
    top = Top(
        kind,
        (main, second, third),
        pattern,
        float(np.exp(rng.uniform(np.log(0.025), np.log(0.11)))),
        float(sleeve),
        float(hem),
        float(ease),
        float(rng.uniform(0.02, 0.13) if female else rng.uniform(0.0, 0.05)),
        printed,
        bool(rng.random() < 0.4),
        bool(kind in ("tee", "sweater", "jacket") and rng.random() < 0.1),
    )
    return Outfit(top, bottom, (upper, sole), float(shaft), socks)


def _draw_bottom(rng: np.random.Generator, female: bool, summer: bool) -> Bottom:
    kind = _pick(
        rng,
        trousers=0.30,
        jeans=0.27,
        cargo=0.02 if female else 0.05,
        track=0.09,
        leggings=0.14 if female else 0.0,
        shorts=0.30 if summer else 0.04,
        skirt=(0.18 if summer else 0.08) if female else 0.0,
    )
    color = _draw_color(rng, _DENIM if kind == "jeans" else _BOTTOM_COLORS)
    if kind == "shorts" and rng.random() < 0.35:
        color = _draw_color(rng, _DENIM)
    ease = {"leggings": 0.004, "jeans": 0.010, "trousers": 0.016, "track": 0.02}.get(kind, 0.02)
    hem = rng.uniform(0.03, 0.075)
    if kind in ("trousers", "jeans", "leggings") and rng.random() < 0.10:
        hem = rng.uniform(0.14, 0.32)
    if kind == "shorts":
        hem = rng.uniform(0.60, 0.78) if female else rng.uniform(0.42, 0.62)
    if kind == "skirt":
        hem = rng.uniform(0.24, 0.72)
    pattern = "plain"
    if kind in ("skirt", "shorts", "leggings") and rng.random() < 0.3:
        pattern = _pick(rng, check=0.35, flowers=0.3, dots=0.1, stripes=0.15, camo=0.1)
    second = _draw_color(rng, _TOP_COLORS)
    return Bottom(
        kind,
        (color, second),
        pattern,
        float(hem),
        float(ease * rng.uniform(0.6, 1.6)),
        float(rng.uniform(-0.05, 0.4)),
    )


def draw_identity(
    seed: int,
    index: int,
    outfit: int = 0,
    families: float = 0.3,
    closet: Closet | None = None,
) -> Identity:
    """The person ``index`` of the set ``seed``; ``outfit`` > 0 is another set of clothes.

    ``families`` is the chance that a block of four ids shares an outfit.  With a ``closet``, most
    people wear its garments and hair where some fit what was drawn; nothing else about them
    changes.  The same arguments give the same person, whatever was drawn before.
    """
    rng = np.random.default_rng([seed, 1, index])
    block = index // FAMILY
    shared = np.random.default_rng([seed, 2, block])
    family = bool(shared.random() < families)
    family_female = bool(shared.random() < 0.5)
    female = family_female if family else bool(rng.random() < 0.48)
    child = rng.random() < 0.04
    rows, shares = _body_rows()[female, child]
    pair = rng.choice(rows, 2, p=shares)
    clothes_rng = np.random.default_rng([seed, 3, block if family else index, int(family), outfit])
    clothes = draw_outfit(clothes_rng, female)
    if family:
        clothes = _vary(rng, clothes)
    hair = (
        _pick(rng, short=0.2, bob=0.22, long=0.28, ponytail=0.22, bun=0.08)
        if female
        else _pick(rng, bald=0.05, crop=0.25, short=0.62, bob=0.03, ponytail=0.05)
    )
    carries = np.random.default_rng([seed, 4, index, outfit])
    bag = _pick(
        carries, none=0.42, backpack=0.26, shoulder=0.15, handbag=0.08, tote=0.07, suitcase=0.02
    )
    hat = _pick(carries, none=0.88, cap=0.07, beanie=0.02, sunhat=0.03 if female else 0.005)
    who = Identity(
        seed=(seed, index, outfit),
        female=female,
        row=int(pair[0]),
        row2=int(pair[1]),
        mix=float(rng.uniform(0, 0.5)),
        skin=_draw_listed(rng, _SKIN),
        hair=hair,
        hair_color=_draw_listed(rng, _HAIR, 0.02),
        hair_length=float(rng.random()),
        outfit=clothes,
        hat="" if hat == "none" else hat,
        hat_color=_draw_color(carries, _TOP_COLORS),
        glasses=_pick(rng, no=0.8, clear=0.15, dark=0.05).replace("no", ""),
        mask=_rgb(0.57, 0.15, 0.85) if carries.random() < 0.05 else None,
        bag="" if bag == "none" else bag,
        bag_colors=(_draw_color(carries, _LEATHER), _draw_color(carries, _TOP_COLORS)),
        bag_size=float(carries.uniform(0.75, 1.15)),
        bag_side=1 if carries.random() < 0.5 else -1,
        umbrella=_draw_color(carries, _TOP_COLORS) if carries.random() < 0.02 else None,
        family=block * FAMILY if family else -1,
    )
    return who if closet is None else _from_closet(who, closet, block)


_LONG = ("trousers", "jeans", "cargo", "track", "leggings")
_SHORT = ("shorts", "skirt")


def _from_closet(who: Identity, closet: Closet, block: int) -> Identity:
    """The same person in garments of the closet: those that agree with what they wear."""
    seed, index, outfit = who.seed
    own = np.random.default_rng([seed, 8, index, outfit])
    # A family shares its suit as it shares its colors.
    cut = np.random.default_rng([seed, 9, block if who.family >= 0 else index, outfit])
    top, bottom = who.outfit.top, who.outfit.bottom
    suits: list[str] = []
    if top.kind not in ("coat", "dress", "tank") and bottom.kind in _LONG + _SHORT:
        suits = closet.suits(who.female, bottom.kind in _LONG, top.sleeve > 0.5)
    suit = str(cut.choice(suits)) if suits and cut.random() < 0.7 else ""
    shoes = closet.of_kind("shoes")
    footwear = str(own.choice(shoes)) if shoes and own.random() < 0.7 else ""
    if who.outfit.shaft > 0.2:  # boots stay ours
        footwear = ""
    hair = closet.hair(who.hair)
    hair_mesh = str(own.choice(hair)) if hair and own.random() < 0.8 and not who.hat else ""
    hats = closet.of_kind("hat")
    hat_mesh = str(own.choice(hats)) if hats and who.hat and own.random() < 0.4 else ""
    return replace(who, suit=suit, footwear=footwear, hair_mesh=hair_mesh, hat_mesh=hat_mesh)


def _vary(rng: np.random.Generator, outfit: Outfit) -> Outfit:
    """The same outfit on another person: small shifts of color, cut and shoes."""

    def near(color: Color) -> Color:
        r, g, b = (float(min(max(c + s, 0), 1)) for c, s in zip(color, shift, strict=True))
        return (r, g, b)

    shift = rng.normal(0, 0.015, 3)
    first, second, third = outfit.top.colors
    top = replace(
        outfit.top,
        colors=(near(first), near(second), near(third)),
        hem=outfit.top.hem + float(rng.normal(0, 0.012)),
        ease=outfit.top.ease * float(rng.uniform(0.85, 1.2)),
    )
    shoes = outfit.shoes
    if rng.random() < 0.7:
        shoes = (_draw_color(rng, _LEATHER), _rgb(0.1, 0.03, rng.choice([0.1, 0.85, 0.9])))
    bottom = outfit.bottom
    if bottom.kind not in ("skirt", "none") and rng.random() < 0.4:
        bottom = replace(bottom, colors=(_draw_color(rng, _BOTTOM_COLORS), bottom.colors[1]))
    return replace(outfit, top=top, shoes=shoes, bottom=bottom)
