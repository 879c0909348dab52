"""The compiled inner loops: skinning, z-buffer, scene rays, shading, the camera's pixels.

Frames.  World: meters, z up, the ground is z = 0.  Camera: x right, y down, z forward, meters.
A picture window is ``(u0, v0, du, dv)``: pixel (column i, row j) looks along
``(u0 + (i + 0.5) du, v0 + (j + 0.5) dv, 1)``, so a depth is the distance along the axis.
Colors are linear light, float32 [H, W, 3]; 8-bit textures go through the table ``LINEAR``.

Everything is single-threaded and writes into arrays the caller owns: the same input gives the
same bytes, and the memory is what the caller allocated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crosscam.jit import Array, Function, jit

__all__ = [
    "FAR",
    "LINEAR",
    "blur",
    "develop",
    "nearest",
    "normals",
    "rasterize",
    "resize_area",
    "scene_rays",
    "shade",
    "skin",
    "smooth",
]

FAR = np.float32(1e9)
"""Depth of a pixel that nothing covers."""

LINEAR: Array = ((np.arange(256) / 255.0) ** 2.2).astype(np.float32)
"""8-bit display value to linear light (gamma 2.2)."""


def _jit(function: Function) -> Function:
    # Other options would round otherwise, and pictures would not be the same to the last bit.
    return jit(function, error_model="python", fastmath=True)


@_jit
def skin(rest: Array, turn: Array, shift: Array, bone: Array, weight: Array, out: Array) -> None:
    """Linear blend skinning: ``out[v] = sum_k weight[v, k] (turn[b] rest[v] + shift[b])``.

    rest, out [V, 3]; turn [J, 3, 3]; shift [J, 3]; bone, weight [V, K].
    """
    for v in range(rest.shape[0]):
        x, y, z = rest[v, 0], rest[v, 1], rest[v, 2]
        ox = oy = oz = np.float32(0)
        for k in range(bone.shape[1]):
            w = weight[v, k]
            if w == 0:
                continue
            b = bone[v, k]
            ox += w * (turn[b, 0, 0] * x + turn[b, 0, 1] * y + turn[b, 0, 2] * z + shift[b, 0])
            oy += w * (turn[b, 1, 0] * x + turn[b, 1, 1] * y + turn[b, 1, 2] * z + shift[b, 1])
            oz += w * (turn[b, 2, 0] * x + turn[b, 2, 1] * y + turn[b, 2, 2] * z + shift[b, 2])
        out[v, 0], out[v, 1], out[v, 2] = ox, oy, oz


@_jit
def normals(points: Array, faces: Array, out: Array) -> None:
    """Unit normals per vertex, faces weighted by their area.  points, out [V, 3]; faces [F, 3]."""
    out[:] = 0
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        px, py, pz = points[a, 0], points[a, 1], points[a, 2]
        ux, uy, uz = points[b, 0] - px, points[b, 1] - py, points[b, 2] - pz
        wx, wy, wz = points[c, 0] - px, points[c, 1] - py, points[c, 2] - pz
        nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for i in (a, b, c):
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(points.shape[0]):
        n = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + np.float32(1e-12)
        out[i, 0] /= n
        out[i, 1] /= n
        out[i, 2] /= n


@_jit
def smooth(points: Array, start: Array, neighbor: Array, amount: Array, rounds: int) -> None:
    """Move each vertex towards the mean of its neighbors by ``amount`` [V] in 0..1, in place.

    Neighbors of v are ``neighbor[start[v]:start[v + 1]]``; rounds are Gauss-Seidel sweeps.
    """
    for _ in range(rounds):
        for v in range(points.shape[0]):
            a, count = amount[v], start[v + 1] - start[v]
            if a == 0 or count == 0:
                continue
            for i in range(3):
                total = np.float32(0)
                for k in range(start[v], start[v + 1]):
                    total += points[neighbor[k], i]
                points[v, i] += a * (total / count - points[v, i])


@_jit
def rasterize(points: Array, faces: Array, face: Array, bary: Array, depth: Array) -> None:
    """Z-buffer of triangles into ``face`` [H, W] (index or -1), ``bary`` [H, W, 2], ``depth``.

    points [V, 3] are column, row (pixels, centers at + 0.5) and depth; a pixel keeps the nearest
    triangle, the first of equals.  The barycentric weights of corners 1 and 2 are written, those
    of corner 0 being what is missing to one.  Both sides of a triangle are drawn.
    """
    height, width = face.shape
    eps = np.float32(-1e-5)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0 = points[a, 0], points[a, 1]
        x1, y1 = points[b, 0] - x0, points[b, 1] - y0
        x2, y2 = points[c, 0] - x0, points[c, 1] - y0
        top = max(0, int(np.ceil(y0 + min(np.float32(0), y1, y2) - np.float32(0.5))))
        end = min(height - 1, int(np.floor(y0 + max(np.float32(0), y1, y2) - np.float32(0.5))))
        if top > end:
            continue
        left = max(0, int(np.ceil(x0 + min(np.float32(0), x1, x2) - np.float32(0.5))))
        right = min(width - 1, int(np.floor(x0 + max(np.float32(0), x1, x2) - np.float32(0.5))))
        area = x1 * y2 - x2 * y1
        if left > right or area == 0:
            continue
        z0, z1, z2 = points[a, 2], points[b, 2], points[c, 2]
        if min(z0, z1, z2) <= np.float32(0.05):
            continue  # at or behind the lens
        scale = np.float32(1) / area
        for row in range(top, end + 1):
            py = np.float32(row) + np.float32(0.5) - y0
            for column in range(left, right + 1):
                px = np.float32(column) + np.float32(0.5) - x0
                w1 = (px * y2 - x2 * py) * scale
                w2 = (x1 * py - px * y1) * scale
                w0 = np.float32(1) - w1 - w2
                if w0 >= eps and w1 >= eps and w2 >= eps:
                    z = w0 * z0 + w1 * z1 + w2 * z2
                    if z < depth[row, column]:
                        depth[row, column] = z
                        face[row, column] = f
                        bary[row, column, 0] = w1
                        bary[row, column, 1] = w2


@_jit
def _lit(shadow: Array, to_shadow: Array, x: Any, y: Any, z: Any, bias: Any) -> Any:
    """Share of sunlight at a world point: 4 x 4 taps of the sun's depth map, 1 outside of it."""
    sx = to_shadow[0, 0] * x + to_shadow[0, 1] * y + to_shadow[0, 2] * z + to_shadow[0, 3]
    sy = to_shadow[1, 0] * x + to_shadow[1, 1] * y + to_shadow[1, 2] * z + to_shadow[1, 3]
    sz = to_shadow[2, 0] * x + to_shadow[2, 1] * y + to_shadow[2, 2] * z + to_shadow[2, 3]
    height, width = shadow.shape
    if sx < 2 or sy < 2 or sx >= width - 3 or sy >= height - 3:
        return np.float32(1)
    ix, iy = int(sx - np.float32(1.5)), int(sy - np.float32(1.5))
    lit = 0
    for j in range(4):
        for i in range(4):
            if sz - bias < shadow[iy + j, ix + i]:
                lit += 1
    return np.float32(lit) / np.float32(16)


@_jit
def shade(
    face: Array,
    bary: Array,
    depth: Array,
    faces: Array,
    face_uv: Array,
    uv: Array,
    normal: Array,
    tone: Array,
    world: Array,
    atlas: Array,
    labels: Array,
    places: Array,
    table: Array,
    light: Array,
    shadow: Array,
    to_shadow: Array,
    color: Array,
    frame_depth: Array,
    part: Array,
    iuv: Array,
) -> None:
    """Color the pixels of one rasterized figure that are nearer than ``frame_depth``.

    ``atlas`` uint8 [A, B, 3], ``labels`` uint8 [A, B], ``places`` uint8 [A, B, 3] share the chart
    whose points ``uv`` are in texels; ``tone`` [V] multiplies the light at each vertex.
    ``light`` float32 [5, 3] is: direction to the sun, its color, sky color, ground color,
    direction to the viewer.  Where the figure is drawn ``color`` and ``frame_depth`` are written,
    and ``part`` [H, W], ``iuv`` [H, W, 3] get label and place.
    """
    height, width = face.shape
    rows, columns = atlas.shape[0], atlas.shape[1]
    for y in range(height):
        for x in range(width):
            f = face[y, x]
            if f < 0 or depth[y, x] >= frame_depth[y, x]:
                continue
            w1, w2 = bary[y, x, 0], bary[y, x, 1]
            w0 = np.float32(1) - w1 - w2
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            i, j, k = face_uv[f, 0], face_uv[f, 1], face_uv[f, 2]
            u = w0 * uv[i, 0] + w1 * uv[j, 0] + w2 * uv[k, 0]
            v = w0 * uv[i, 1] + w1 * uv[j, 1] + w2 * uv[k, 1]
            nx = w0 * normal[a, 0] + w1 * normal[b, 0] + w2 * normal[c, 0]
            ny = w0 * normal[a, 1] + w1 * normal[b, 1] + w2 * normal[c, 1]
            nz = w0 * normal[a, 2] + w1 * normal[b, 2] + w2 * normal[c, 2]
            px = w0 * world[a, 0] + w1 * world[b, 0] + w2 * world[c, 0]
            py = w0 * world[a, 1] + w1 * world[b, 1] + w2 * world[c, 1]
            pz = w0 * world[a, 2] + w1 * world[b, 2] + w2 * world[c, 2]
            n = np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-9)
            facing = (nx * light[4, 0] + ny * light[4, 1] + nz * light[4, 2]) / n
            if facing < 0:
                n, facing = -n, -facing
            nx, ny, nz = nx / n, ny / n, nz / n
            tx = min(max(u - np.float32(0.5), np.float32(0)), np.float32(columns - 1.001))
            ty = min(max(v - np.float32(0.5), np.float32(0)), np.float32(rows - 1.001))
            ix, iy = int(tx), int(ty)
            ax, ay = tx - ix, ty - iy
            sun = max(np.float32(0), nx * light[0, 0] + ny * light[0, 1] + nz * light[0, 2])
            if sun > 0 and light[1, 1] > 0:
                sun *= _lit(shadow, to_shadow, px, py, pz, np.float32(0.035))
            up = np.float32(0.5) + np.float32(0.5) * nz
            # Light from the sky reaches the hollows near the ground and between limbs less.
            open_ = np.float32(0.72) + np.float32(0.28) * min(np.float32(1), pz * np.float32(0.9))
            rim = np.float32(0.85) + np.float32(0.15) * facing
            dim = w0 * tone[a] + w1 * tone[b] + w2 * tone[c]
            for ch in range(3):
                t = (table[atlas[iy, ix, ch]] * (1 - ax) + table[atlas[iy, ix + 1, ch]] * ax) * (
                    1 - ay
                ) + (
                    table[atlas[iy + 1, ix, ch]] * (1 - ax) + table[atlas[iy + 1, ix + 1, ch]] * ax
                ) * ay
                ambient = (light[2, ch] * up + light[3, ch] * (1 - up)) * open_ * rim
                color[y, x, ch] = t * dim * (ambient + light[1, ch] * sun)
            frame_depth[y, x] = depth[y, x]
            qx, qy = min(max(int(u), 0), columns - 1), min(max(int(v), 0), rows - 1)
            part[y, x] = labels[qy, qx]
            for ch in range(3):
                iuv[y, x, ch] = places[qy, qx, ch]


@_jit
def _texel(bank: Array, start: Array, t: int, u: Any, v: Any, footprint: Any, out: Array) -> None:
    """Texture ``t`` of the bank at (u, v) tiles, at the level where a texel is a footprint."""
    size = 256
    level = 0
    texels = footprint * size
    while texels > 1.4 and level < start.shape[0] - 1:
        texels *= 0.5
        size >>= 1
        level += 1
    fx = (u - np.floor(u)) * size
    fy = (v - np.floor(v)) * size
    ix, iy = int(fx) % size, int(fy) % size
    jx, jy = (ix + 1) % size, (iy + 1) % size
    ax, ay = fx - np.floor(fx), fy - np.floor(fy)
    base = start[level]
    for ch in range(4):
        a = bank[t, base + iy * size + ix, ch] * (1 - ax) + bank[t, base + iy * size + jx, ch] * ax
        b = bank[t, base + jy * size + ix, ch] * (1 - ax) + bank[t, base + jy * size + jx, ch] * ax
        out[ch] = a * (1 - ay) + b * ay


@_jit
def scene_rays(
    window: Array,
    eye: Array,
    turn: Array,
    quads: Array,
    ground: Array,
    bank: Array,
    start: Array,
    table: Array,
    light: Array,
    shadow: Array,
    to_shadow: Array,
    feet: Array,
    color: Array,
    depth: Array,
) -> None:
    """The empty scene: ground plane, upright textured quads and sky, one ray a pixel.

    ``turn`` [3, 3] world to camera; ``quads`` [N, 12]: x0, y0, x1, y1, z0, z1, texture, tiles
    along, tiles up, red, green, blue tint (a texel with alpha under half lets the ray pass);
    ``ground`` [10]: two textures, their tile size in meters, the border line (nx, ny, offset)
    between them, tint.  ``feet`` [M, 3]: x, y, radius of dark contact spots.  ``bank`` uint8
    [T, texels of all levels, 4], level l starting at ``start[l]``; ``table`` is ``LINEAR``.
    """
    height, width = depth.shape
    texel = np.empty(4, np.float32)
    best = np.empty(4, np.float32)
    for y in range(height):
        for x in range(width):
            cu = window[0] + (x + np.float32(0.5)) * window[2]
            cv = window[1] + (y + np.float32(0.5)) * window[3]
            dx = turn[0, 0] * cu + turn[1, 0] * cv + turn[2, 0]
            dy = turn[0, 1] * cu + turn[1, 1] * cv + turn[2, 1]
            dz = turn[0, 2] * cu + turn[1, 2] * cv + turn[2, 2]
            near = np.float32(60)
            hit = -2  # sky
            nx, ny, nz = np.float32(0), np.float32(0), np.float32(1)
            if dz < np.float32(-1e-4):
                t = -eye[2] / dz
                if t < near:
                    near, hit = t, -1
            for q in range(quads.shape[0]):
                ex, ey = quads[q, 2] - quads[q, 0], quads[q, 3] - quads[q, 1]
                det = dx * ey - dy * ex
                if abs(det) < np.float32(1e-6):
                    continue
                rx, ry = quads[q, 0] - eye[0], quads[q, 1] - eye[1]
                t = (rx * ey - ry * ex) / det
                if t <= np.float32(0.3) or t >= near:
                    continue
                s = (rx * dy - ry * dx) / det
                if s < 0 or s > 1:
                    continue
                z = eye[2] + t * dz
                if z < quads[q, 4] or z > quads[q, 5]:
                    continue
                tall = quads[q, 5] - quads[q, 4]
                foot = t * abs(window[3]) * quads[q, 8] / tall
                _texel(
                    bank,
                    start,
                    int(quads[q, 6]),
                    s * quads[q, 7],
                    (quads[q, 5] - z) / tall * quads[q, 8],
                    foot,
                    texel,
                )
                if texel[3] < np.float32(128):
                    continue
                near, hit = t, q
                for ch in range(3):
                    best[ch] = table[int(texel[ch])] * quads[q, 9 + ch]
                length = np.sqrt(ex * ex + ey * ey)
                nx, ny, nz = -ey / length, ex / length, np.float32(0)
                if nx * dx + ny * dy > 0:
                    nx, ny = -nx, -ny
            depth[y, x] = near
            if hit == -2:
                for ch in range(3):
                    color[y, x, ch] = light[2, ch] * np.float32(0.75)
                continue
            px, py, pz = eye[0] + near * dx, eye[1] + near * dy, eye[2] + near * dz
            dark = np.float32(1)
            if hit == -1:
                side = px * ground[3] + py * ground[4] - ground[5]
                which = 0 if side < 0 else 1
                tile = ground[2]
                grazing = max(np.float32(0.05), -dz / np.sqrt(dx * dx + dy * dy + dz * dz))
                foot = near * abs(window[3]) / tile / np.sqrt(grazing)
                _texel(bank, start, int(ground[which]), px / tile, py / tile, foot, texel)
                for ch in range(3):
                    best[ch] = table[int(texel[ch])] * ground[6 + ch]
                if abs(side) < np.float32(0.07):
                    for ch in range(3):
                        best[ch] = best[ch] * np.float32(0.7)
                for m in range(feet.shape[0]):
                    gx, gy = px - feet[m, 0], py - feet[m, 1]
                    r2 = (gx * gx + gy * gy) / (feet[m, 2] * feet[m, 2])
                    if r2 < 6:
                        dark *= 1 - np.float32(0.55) * np.exp(-r2)
            else:
                dark = np.float32(0.7) + np.float32(0.3) * min(np.float32(1), pz * np.float32(0.8))
            sun = max(np.float32(0), nx * light[0, 0] + ny * light[0, 1] + nz * light[0, 2])
            if sun > 0 and light[1, 1] > 0:
                sun *= _lit(shadow, to_shadow, px, py, pz, np.float32(0.02))
            up = np.float32(0.5) + np.float32(0.5) * nz
            for ch in range(3):
                ambient = light[2, ch] * up + light[3, ch] * (1 - up)
                color[y, x, ch] = best[ch] * dark * (ambient + light[1, ch] * sun)


@_jit
def resize_area(image: Array, out: Array) -> None:
    """Shrink [H, W, 3] to the shape of ``out`` by the mean over each target pixel's box."""
    height, width = image.shape[0], image.shape[1]
    rows, columns = out.shape[0], out.shape[1]
    sy, sx = height / rows, width / columns
    for r in range(rows):
        y0, y1 = r * sy, (r + 1) * sy
        for c in range(columns):
            x0, x1 = c * sx, (c + 1) * sx
            total0 = total1 = total2 = weight = np.float32(0)
            for y in range(int(y0), min(height, int(np.ceil(y1)))):
                wy = min(y + 1.0, y1) - max(float(y), y0)
                for x in range(int(x0), min(width, int(np.ceil(x1)))):
                    w = np.float32(wy * (min(x + 1.0, x1) - max(float(x), x0)))
                    weight += w
                    total0 += w * image[y, x, 0]
                    total1 += w * image[y, x, 1]
                    total2 += w * image[y, x, 2]
            out[r, c, 0] = total0 / weight
            out[r, c, 1] = total1 / weight
            out[r, c, 2] = total2 / weight


@_jit
def blur(image: Array, kernel_x: Array, kernel_y: Array, scratch: Array) -> None:
    """Separable blur of [H, W, C] in place with odd kernels; the border pixel is repeated."""
    height, width, channels = image.shape
    rx, ry = kernel_x.shape[0] // 2, kernel_y.shape[0] // 2
    for y in range(height):
        for x in range(width):
            for ch in range(channels):
                total = np.float32(0)
                for k in range(-rx, rx + 1):
                    total += kernel_x[k + rx] * image[y, min(max(x + k, 0), width - 1), ch]
                scratch[y, x, ch] = total
    for y in range(height):
        for x in range(width):
            for ch in range(channels):
                total = np.float32(0)
                for k in range(-ry, ry + 1):
                    total += kernel_y[k + ry] * scratch[min(max(y + k, 0), height - 1), x, ch]
                image[y, x, ch] = total


@_jit
def develop(
    image: Array,
    matrix: Array,
    look: Array,
    seed: int,
    reach: int,
    soft: Array,
    rows: Array,
    out: Array,
) -> None:
    """Linear light to 8-bit display values, as a camera does.

    matrix [3, 3] mixes colors; look [8]: gain, shoulder, gamma, saturation, contrast, black
    level, noise, sharpening.  To the display values their difference to a blurred copy is added,
    times the sharpening, halos included (the mean over 2 ``reach`` + 1 pixels each way; ``soft``
    and ``rows`` are scratch of the image's shape).  Noise comes from a counter-based hash of
    ``seed``.
    """
    height, width = image.shape[0], image.shape[1]
    state = np.uint64(seed)
    gain, shoulder, gamma, saturation = look[0], look[1], look[2], look[3]
    contrast, black, noise, sharp = look[4], look[5], look[6], look[7]
    for y in range(height):
        for x in range(width):
            r, g, b = image[y, x, 0], image[y, x, 1], image[y, x, 2]
            total = np.float32(0)
            for ch in range(3):
                value = gain * (matrix[ch, 0] * r + matrix[ch, 1] * g + matrix[ch, 2] * b)
                value = max(value, np.float32(0))
                value = value * (1 + shoulder) / (1 + shoulder * value)
                value = min(value, np.float32(1.3)) ** gamma
                image[y, x, ch] = value
                total += value
            gray = total / np.float32(3)
            for ch in range(3):
                value = gray + saturation * (image[y, x, ch] - gray)
                image[y, x, ch] = (value - np.float32(0.5)) * contrast + np.float32(0.5) - black
    share = np.float32(1) / np.float32(2 * reach + 1)
    for y in range(height):
        for x in range(width):
            for ch in range(3):
                total = np.float32(0)
                for i in range(-reach, reach + 1):
                    total += image[y, min(max(x + i, 0), width - 1), ch]
                rows[y, x, ch] = total * share
    for y in range(height):
        for x in range(width):
            for ch in range(3):
                total = np.float32(0)
                for j in range(-reach, reach + 1):
                    total += rows[min(max(y + j, 0), height - 1), x, ch]
                soft[y, x, ch] = total * share
    for y in range(height):
        for x in range(width):
            for ch in range(3):
                value = image[y, x, ch]
                value += sharp * (value - soft[y, x, ch])
                # Sum of four uniform bytes of a mixed counter: near enough to a bell curve.
                state += np.uint64(0x9E3779B97F4A7C15)
                mixed = state
                mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                total4 = (
                    (mixed & np.uint64(255))
                    + ((mixed >> np.uint64(16)) & np.uint64(255))
                    + ((mixed >> np.uint64(32)) & np.uint64(255))
                    + ((mixed >> np.uint64(48)) & np.uint64(255))
                )
                value += noise * (np.float32(total4) - np.float32(510)) / np.float32(148)
                out[y, x, ch] = np.uint8(min(max(value * 255, np.float32(0)), np.float32(255)))


@_jit
def nearest(query: Array, points: Array, index: Array, distance: Array) -> None:
    """Nearest of ``points`` [P, 3], sorted by height (z), to each of ``query`` [Q, 3]."""
    count = points.shape[0]
    for q in range(query.shape[0]):
        x, y, z = query[q, 0], query[q, 1], query[q, 2]
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if points[middle, 2] < z:
                low = middle + 1
            else:
                high = middle
        best, which = np.float32(np.inf), -1
        down, up = low - 1, low
        # Walk away from the height of the query, until height alone is farther than the best.
        while down >= 0 or up < count:
            if up < count:
                dz = points[up, 2] - z
                if dz * dz > best:
                    up = count
                else:
                    dx, dy = points[up, 0] - x, points[up, 1] - y
                    square = dx * dx + dy * dy + dz * dz
                    if square < best:
                        best, which = square, up
                    up += 1
            if down >= 0:
                dz = z - points[down, 2]
                if dz * dz > best:
                    down = -1
                else:
                    dx, dy = points[down, 0] - x, points[down, 1] - y
                    square = dx * dx + dy * dy + dz * dz
                    if square < best:
                        best, which = square, down
                    down -= 1
        index[q] = which
        distance[q] = np.sqrt(best)
