"""One picture: a person, a camera and a number become a JPEG and its ground truth.

Steps: pose and skin the person, place them in one of the camera's scenes, draw the box a
detector might, look at the empty scene, draw person and passers-by into it by depth, then let the
camera turn light into pixels.  All chance comes from the generator of (set, person, camera,
shot), so a picture does not depend on which others were made.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from crosscam.synth import raster
from crosscam.synth.body import joint_points, pose_bones
from crosscam.synth.camera import Camera, gaussian, look_at
from crosscam.synth.identity import draw_identity
from crosscam.synth.paint import cloud
from crosscam.synth.person import Person, make_person
from crosscam.synth.pose import draw_pose
from crosscam.synth.scene import BANK_START, Scene, bank, draw_scene, props

__all__ = ["HEIGHT", "PALETTE", "WIDTH", "Look", "Shot", "encode", "passer", "render_shot"]

Array = npt.NDArray[Any]

HEIGHT, WIDTH = 256, 128
_POOL = 24  # passers-by of a set; each worker keeps them (about 4 MB each)
_DEPTH_IN_BODY = np.array([0.03, 0.03, 0.03, 0.09, 0.09] + [0.13] * 2 + [0.09] * 4
                          + [0.18] * 2 + [0.11] * 2 + [0.10] * 2, np.float32)  # fmt: skip

_LIFT = np.float32(0.03)
"""People are drawn this much nearer, meters: soles that graze the ground must not sink into it."""


@dataclass(frozen=True)
class Look:
    """How pictures are taken: the settings a preset chooses."""

    occluder: float = 0.14  # chance that a thing stands before the person
    occluder_cover: tuple[float, float] = (0.1, 0.5)  # share of the box height it reaches up
    neighbors: tuple[float, float, float] = (0.58, 0.30, 0.12)  # chances of 0, 1, 2 passers-by
    neighbor_front: float = 0.18  # chance that a passer-by is nearer to the camera
    misalign: float = 1.0  # scale of the box errors
    cut: float = 0.07  # chance of a box that loses the legs
    partial: tuple[float, float] | None = None  # keep this share of the height only
    absent: bool = False  # an empty box: a detector's false alarm
    quality: int = 70  # of the written JPEG


@dataclass(frozen=True)
class Shot:
    """A picture and everything known about it."""

    image: Array  # [256, 128, 3] uint8 as the camera gave it, before the written JPEG
    part: Array  # [256, 128] uint8, 0..16, what is seen of the person
    person: Array  # [256, 128] bool, the person as if nothing stood before them
    iuv: Array  # [256, 128, 3] uint8: body part 1..10 (0: none), u, v on the 256 x 256 texture
    keypoints: Array  # [17, 3] float32: x, y in pixels, visibility 0 outside, 1 hidden, 2 seen
    yaw: float  # degrees, 0 facing the camera, 90 showing the left side, -180..180
    pose: str
    scene: int
    occlusion: float  # share of the person inside the box that is covered
    native: float  # height of the box on the sensor, pixels
    quality: int  # of the written JPEG


def passer(seed: int, number: int) -> Person:
    """One of the ``_POOL`` people of a set who pass by and are nobody's match."""
    return _passer(seed, number % _POOL)


@lru_cache(maxsize=_POOL)
def _passer(seed: int, number: int) -> Person:
    return make_person(draw_identity(seed, 1_000_000 + number, families=0.0))


@lru_cache(maxsize=64)
def _scene(seed: int, camera: int, number: int, view: float) -> Scene:
    return draw_scene((seed, 21, camera, number), view)


@dataclass
class _Figure:
    """A posed person in the world, and where the picture's window sees them."""

    world: Array  # [V, 3]
    normal: Array
    tone: Array  # [V] brightness in the hollows of folds
    turn: Array
    shift: Array
    place: Array  # (x, y, lift) added after the turn by yaw
    yaw: Array  # [3, 3]
    pose: str


def _stand(person: Person, rng: np.random.Generator, at: Array, heading: float) -> _Figure:
    """Pose ``person`` and put them at ``at`` (x, y) facing ``heading`` (direction of the nose)."""
    pose, turns = draw_pose(rng, person.build.heads, person.who.holds)
    turn, shift = pose_bones(turns, person.build.heads)
    posed = np.empty_like(person.points)
    rest, tone = _folds(person, rng)
    raster.skin(rest, turn, shift, person.bone, person.weight, posed)
    angle = heading + math.pi / 2  # at rest the nose points to -y
    c, s = math.cos(angle), math.sin(angle)
    yaw = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
    world = posed @ yaw.T
    lift = -float(world[person.box_points, 2].min())
    place = np.array([at[0], at[1], lift], np.float32)
    world = np.ascontiguousarray(world + place)
    normal = np.empty_like(world)
    raster.normals(world, person.faces, normal)
    return _Figure(world, normal, tone, turn, shift, place, yaw, pose)


def _folds(person: Person, rng: np.random.Generator) -> tuple[Array, Array]:
    """(points at rest [V, 3] with the folds of the moment, brightness [V] in their hollows)."""
    cloth = person.cloth
    around, along = person.weave[cloth].T
    height = np.zeros(len(cloth), np.float32)
    for size, share in ((0.8, 0.6), (1.7, 0.8)):
        # Folds are long: the noise is drawn out, and sheared as cloth is pulled.
        a, b = rng.uniform(0.5, 1.1), rng.uniform(0.6, 1.5)
        shear, dx, dy = rng.normal(0, 0.5), rng.random(), rng.random()
        height += share * cloud(a * around + shear * along, b * along, size, 1, dx, dy)
    rest = person.points.copy()
    fold = person.fold[cloth]
    rest[cloth] += person.normal[cloth] * (fold * height)[:, None]
    tone = np.ones(len(rest), np.float32)
    depth = fold / np.float32(0.005)
    tone[cloth] -= depth * (0.10 * np.maximum(-height, 0) - 0.04 * np.maximum(height, 0))
    return rest, tone


def _project(points: Array, eye: Array, turn: Array) -> Array:
    """World [N, 3] -> (u, v, depth) [N, 3]."""
    p = (points - eye) @ turn.T
    depth = np.maximum(p[:, 2:], 1e-3)
    return np.concatenate([p[:, :2] / depth, p[:, 2:]], 1).astype(np.float32)


def _to_pixels(projected: Array, window: Array) -> Array:
    out = projected.copy()
    out[:, 0] = (projected[:, 0] - window[0]) / window[2]
    out[:, 1] = (projected[:, 1] - window[1]) / window[3]
    return out


def _draw(
    figure: _Figure, person: Person, eye: Array, turn: Array, window: Array, shape: tuple[int, int]
) -> tuple[Array, Array, Array]:
    face = np.full(shape, -1, np.int32)
    bary = np.zeros((*shape, 2), np.float32)
    depth = np.full(shape, raster.FAR, np.float32)
    pixels = _to_pixels(_project(figure.world, eye, turn), window)
    raster.rasterize(pixels, person.faces, face, bary, depth)
    return face, bary, depth


def _sun_map(figure: _Figure, person: Person, sun: Array) -> tuple[Array, Array]:
    """Depth map [144, 144] of the person seen from the sun, and the matrix [3, 4] into it."""
    side = 144
    center = np.array([figure.place[0], figure.place[1], 0.9], np.float32)
    a = np.cross(np.array([0.0, 0.0, 1.0]), sun)
    a = a / (np.linalg.norm(a) + 1e-9)
    b = np.cross(sun, a)
    k = side / 2.6
    matrix = np.zeros((3, 4), np.float32)
    matrix[0, :3], matrix[1, :3], matrix[2, :3] = a * k, -b * k, -sun
    matrix[:, 3] = np.array([side / 2, side / 2, 50.0]) - matrix[:, :3] @ center
    points = (figure.world @ matrix[:, :3].T + matrix[:, 3]).astype(np.float32)
    face = np.full((side, side), -1, np.int32)
    bary = np.zeros((side, side, 2), np.float32)
    depth = np.full((side, side), raster.FAR, np.float32)
    raster.rasterize(points, person.faces, face, bary, depth)
    return depth, matrix


_NO_SHADOW: Array = np.full((4, 4), raster.FAR, np.float32)


def _box(
    figure: _Figure, person: Person, eye: Array, turn: Array, look: Look, rng: np.random.Generator
) -> Array:
    """The window a detector draws round the person: (u0, v0, width, height)."""
    seen = _project(figure.world[person.box_points], eye, turn)
    low, high = seen[:, :2].min(0), seen[:, :2].max(0)
    tall = float(high[1] - low[1])
    wide = float(high[0] - low[0])
    cx, cy = (float(v) for v in (low + high) / 2)
    m = look.misalign
    height = tall * (1 + rng.uniform(-0.02, 0.06)) * (1 + m * rng.normal(0, 0.035))
    # Boxes of a detector have nearly one shape: who strides or carries a thing gets little more.
    width = height * rng.uniform(0.33, 0.41)
    width += rng.uniform(0.1, 0.6) * max(0.0, wide - width)
    width *= 1 + m * rng.normal(0, 0.04)
    cx += m * rng.normal(0, 0.03) * width
    cy += m * rng.normal(0.004, 0.02) * height
    if rng.random() < look.cut * m:
        kept = rng.uniform(0.68, 0.92)
        cy -= height * (1 - kept) / 2
        height *= kept
        width *= rng.uniform(kept, 1)
    if look.partial is not None:
        share = rng.uniform(*look.partial)
        top = cy - height / 2
        start = rng.choice([0.0, 0.0, 1.0 - share])  # mostly the upper body is what is seen
        cy = top + height * (start + share / 2)
        height *= share
        width = max(width * rng.uniform(0.75, 1.0), height * 0.4)
    return np.array([cx - width / 2, cy - height / 2, width, height], np.float32)


def render_shot(
    person: Person, camera: Camera, shot: int, look: Look, yaw: float | None = None
) -> Shot:
    """Picture ``shot`` of ``person`` by ``camera`` (about 15 ms).

    ``yaw`` fixes the view in degrees (0 facing the camera), else it is drawn.
    """
    rng = np.random.default_rng([camera.seed, 22, camera.number, shot, *person.who.seed])
    number = int(rng.integers(camera.scenes))
    scene = _scene(camera.seed, camera.number, number, camera.view)
    along, across = rng.uniform(-2.2, 1.0), rng.normal(0, 1.6)
    ahead = np.array([math.cos(camera.view), math.sin(camera.view)])
    side = np.array([-ahead[1], ahead[0]])
    at = along * ahead + across * side
    eye = np.array([*(-camera.distance * ahead), camera.height], np.float32)
    toward_camera = math.atan2(eye[1] - at[1], eye[0] - at[0])
    if yaw is not None:
        heading = toward_camera - math.radians(yaw)
    elif rng.random() < 0.6:
        heading = camera.headings[int(rng.integers(2))] + rng.normal(0, 0.3)
    else:
        heading = rng.uniform(0, 2 * math.pi)
    figure = _stand(person, rng, at, heading)
    turn = look_at(eye, np.array([at[0], at[1], 0.9]))
    box = _box(figure, person, eye, turn, look, rng)
    native = float(rng.uniform(*camera.native))
    rows = 256 if native < 160 else 384
    shape = (rows, rows // 2)
    window = np.array([box[0], box[1], box[2] / shape[1], box[3] / shape[0]], np.float32)

    shade_chance = 0.35 if not scene.indoor else 0.0
    dim = 0.12 if rng.random() < shade_chance else 1.0
    sun_color = scene.sun_color * np.float32(dim)
    casts = float(sun_color[1]) > 0.25
    shadow, to_shadow = _NO_SHADOW, np.zeros((3, 4), np.float32)
    if casts and not look.absent:
        shadow, to_shadow = _sun_map(figure, person, scene.sun)
    viewer = turn.T @ np.array([0, 0, -1], np.float32)
    light = np.stack([scene.sun, sun_color, scene.sky, scene.bounce, viewer]).astype(np.float32)

    person_depth = float(_project(np.array([[at[0], at[1], 0.9]]), eye, turn)[0, 2])
    quads = _quads_behind(
        scene.quads, eye, turn, person_depth + 0.45, float(box[0]), float(box[0] + box[2])
    )
    if rng.random() < look.occluder:
        quads = np.concatenate([quads, _occluder(rng, at, eye, look)])
    others = _passers_by(rng, camera, look, at, toward_camera)
    feet = [np.array([f[0], f[1], 0.16 - 0.15 * look.absent]) for f in _feet(figure, person)]
    feet += [np.array([o[0].place[0], o[0].place[1], 0.3]) for o in others]
    color = np.empty((*shape, 3), np.float32)
    depth = np.empty(shape, np.float32)
    raster.scene_rays(window, eye, turn, quads, scene.ground, bank(), BANK_START, raster.LINEAR,
                      light, shadow, to_shadow, np.array(feet, np.float32), color,
                      depth)  # fmt: skip

    part = np.zeros(shape, np.uint8)
    iuv = np.zeros((*shape, 3), np.uint8)
    face, bary, own_depth = _draw(figure, person, eye, turn, window, shape)
    if look.absent:
        face[:] = -1
    raster.shade(face, bary, own_depth - _LIFT, person.faces, person.face_uv, person.uv,
                 figure.normal, figure.tone, figure.world, person.atlas, person.labels,
                 person.places, raster.LINEAR, light, shadow, to_shadow, color, depth, part,
                 iuv)  # fmt: skip
    for other, who in others:
        f, b, d = _draw(other, who, eye, turn, window, shape)
        over = np.zeros(shape, np.uint8)
        spare = np.zeros((*shape, 3), np.uint8)
        raster.shade(f, b, d - _LIFT, who.faces, who.face_uv, who.uv, other.normal, other.tone,
                     other.world, who.atlas, who.labels, who.places, raster.LINEAR, light,
                     _NO_SHADOW, np.zeros((3, 4), np.float32), color, depth, over,
                     spare)  # fmt: skip
        part[over > 0] = 0
        iuv[over > 0] = 0
    amodal = face >= 0
    seen = part > 0
    total = int(amodal.sum())
    joints = _joints(figure, person, eye, turn, window, depth, seen)
    joints[:, :2] *= HEIGHT / rows
    image = _develop(color, camera, scene, native, rng)
    pick = slice(None) if rows == HEIGHT else (np.arange(HEIGHT) * rows // HEIGHT)
    pick2 = slice(None) if rows == HEIGHT else (np.arange(WIDTH) * rows // HEIGHT)
    degrees = math.degrees(toward_camera - heading)
    return Shot(
        image=image,
        part=np.ascontiguousarray(part[pick][:, pick2]),
        person=np.ascontiguousarray(amodal[pick][:, pick2]),
        iuv=np.ascontiguousarray(iuv[pick][:, pick2]),
        keypoints=joints,
        yaw=(degrees + 180) % 360 - 180,
        pose=figure.pose,
        scene=number,
        occlusion=1.0 - int((seen & amodal).sum()) / max(total, 1),
        native=native,
        quality=look.quality,
    )


def _feet(figure: _Figure, person: Person) -> Array:
    """Where the two ankles are, [2, 3] meters."""
    joints = joint_points(person.build, figure.turn, figure.shift)[-2:]
    result: Array = joints @ figure.yaw.T + figure.place
    return result


def _joints(
    figure: _Figure,
    person: Person,
    eye: Array,
    turn: Array,
    window: Array,
    depth: Array,
    seen: Array,
) -> Array:
    """COCO joints in pixels of the render with their visibility, [17, 3]."""
    points = joint_points(person.build, figure.turn, figure.shift) @ figure.yaw.T + figure.place
    projected = _to_pixels(_project(points, eye, turn), window)
    out = np.zeros((17, 3), np.float32)
    out[:, :2] = projected[:, :2]
    rows, columns = depth.shape
    for k, (x, y, z) in enumerate(projected):
        i, j = math.floor(y), math.floor(x)
        if not (0 <= i < rows and 0 <= j < columns):
            continue
        free = z - _LIFT - depth[i, j] < _DEPTH_IN_BODY[k] and seen[i, j]
        out[k, 2] = 2 if free else 1
    return out


def _quads_behind(
    quads: Array, eye: Array, turn: Array, depth: float, left: float, right: float
) -> Array:
    """The scene's things beyond ``depth`` that the view from ``left`` to ``right`` can meet."""
    ends = np.concatenate([quads[:, 0:2], quads[:, 2:4]])
    ends = np.concatenate([ends, np.full((len(ends), 1), 0.9, np.float32)], 1)
    z = ((ends - eye) @ turn.T)[:, 2].reshape(2, -1).min(0)
    behind = quads[z > depth]
    # The picture is narrow: most things stand beside it, and each costs a test a pixel.
    projected = _project(ends, eye, turn).reshape(2, -1, 3)[:, z > depth, 0]
    inside = (projected.max(0) >= left) & (projected.min(0) <= right)
    result: Array = behind[inside]
    return result


_OCCLUDERS = ("railing", "bush", "bicycle", "bicycle2", "bin", "barrier", "car", "planter",
              "bench", "pole", "sign", "stone", "plaster", "fence")  # fmt: skip


def _occluder(rng: np.random.Generator, at: Array, eye: Array, look: Look) -> Array:
    """A thing between camera and person that covers part of the box, as quads [1, 12]."""
    name = str(rng.choice(_OCCLUDERS))
    to_eye = (eye[:2] - at) / np.linalg.norm(eye[:2] - at)
    gap = rng.uniform(0.45, 1.2)
    side = np.array([-to_eye[1], to_eye[0]])
    # The line of sight to the feet is `height * gap / distance` above the ground there.
    slide = rng.normal(0, 0.35 if name != "pole" else 0.15)
    x, y = at + gap * to_eye + slide * side
    quad = props(rng, name, float(x), float(y), math.atan2(to_eye[1], to_eye[0]))
    if name not in ("pole", "sign", "car"):
        wanted = 1.75 * rng.uniform(*look.occluder_cover)
        rise = gap * float(eye[2]) / float(np.linalg.norm(eye[:2] - at))
        quad[5] = max(0.3, wanted + rise * 0.8)
    return quad[None]


def _passers_by(
    rng: np.random.Generator, camera: Camera, look: Look, at: Array, toward: float
) -> list[tuple[_Figure, Person]]:
    count = int(rng.choice(3, p=look.neighbors))
    out = []
    for _ in range(count):
        who = passer(camera.seed, int(rng.integers(_POOL)))
        front = rng.random() < look.neighbor_front
        away = rng.uniform(0.3, 0.9) if front else -rng.uniform(0.15, 4.0)
        slide = rng.choice([-1.0, 1.0]) * (
            rng.uniform(0.28, 0.6) if front else rng.uniform(0.35, 1.1)
        )
        spot = at + away * np.array([math.cos(toward), math.sin(toward)])
        spot = spot + slide * np.array([-math.sin(toward), math.cos(toward)])
        heading = camera.headings[int(rng.integers(2))] + rng.normal(0, 0.4)
        out.append((_stand(who, rng, spot, heading), who))
    return out


def _develop(
    color: Array, camera: Camera, scene: Scene, native: float, rng: np.random.Generator
) -> Array:
    """Light to the camera's 8-bit picture at the written size."""
    tall = int(min(max(native, 40), color.shape[0]))
    small = np.empty((tall, max(20, tall // 2), 3), np.float32)
    raster.resize_area(color, small)
    # Most pictures are as sharp as the camera; the rest are out of focus or smeared by motion.
    sigma = camera.blur + abs(rng.normal(0, 0.6 if rng.random() < 0.12 else 0.1))
    smear = int(rng.random() < 0.10) * int(rng.integers(1, 3))
    scratch = np.empty_like(small)
    raster.blur(small, gaussian(sigma, smear), gaussian(sigma), scratch)
    level = float(scene.sky[1]) * 0.75 + float(scene.sun_color[1]) * 0.45
    gain = camera.exposure * 0.95 / level * rng.uniform(0.88, 1.12)
    # Exposure follows the light where the person is, half the way; 0.14 is a middle gray.
    gain *= math.sqrt(0.14 / max(gain * float(small.mean()), 0.03))
    saturation = camera.saturation * rng.uniform(0.92, 1.08)
    look = np.array(
        [gain, camera.shoulder, camera.gamma, saturation, camera.contrast, camera.black,
         camera.noise, camera.sharpen], np.float32,
    )  # fmt: skip
    out = np.empty(small.shape, np.uint8)
    # A camera sharpens what its own lens and scaling soften: halos grow with the resolution.
    reach = max(1, round(tall / 128))
    raster.develop(small, camera.matrix, look, int(rng.integers(2**62)), reach, scratch,
                   np.empty_like(small), out)  # fmt: skip
    coded = simplejpeg.encode_jpeg(out, quality=int(rng.integers(*camera.quality)))
    out = simplejpeg.decode_jpeg(coded)
    picture = Image.fromarray(out).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def encode(shot: Shot) -> dict[str, bytes]:
    """The files of a shot: "jpg", "png" (labels) and "iuv" (a PNG at half the size).

    The label PNG is a palette picture: its low five bits are the visible part 0..16, bit 5 (32)
    says that the person is there, seen or not.  The IUV PNG is RGB: part, u, v.
    """
    labels = shot.part | (shot.person.astype(np.uint8) << 5)
    picture = Image.fromarray(labels, "P")
    picture.putpalette(PALETTE.tobytes())
    png = io.BytesIO()
    picture.save(png, "PNG", compress_level=6)
    iuv = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shot.iuv[::2, ::2])).save(iuv, "PNG", compress_level=6)
    return {
        "jpg": simplejpeg.encode_jpeg(np.ascontiguousarray(shot.image), quality=shot.quality,
                                      colorsubsampling="420"),
        "png": png.getvalue(),
        "iuv": iuv.getvalue(),
    }  # fmt: skip


def _palette() -> Array:
    colors = np.random.default_rng(4).integers(60, 255, (32, 3))
    colors[0] = 0
    result: Array = np.concatenate([colors, colors // 2 + 60]).astype(np.uint8)
    return result


PALETTE = _palette()
"""[64, 3] uint8: how the values of a label PNG are shown."""
