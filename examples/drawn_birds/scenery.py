"""Light, background and perch of the drawn birds."""

import math
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from .brushes import Brush, Colour, Points, at, blurred, darker, gradient, mix, oval, smooth

Span = tuple[float, float]
Palette = tuple[Colour, ...]

_BACKGROUND_SIDE = 80  # longer side in pixels at which backgrounds, out of focus, are painted

_SKIES = (((124, 170, 206), (222, 232, 226)), ((168, 190, 204), (232, 230, 220)),
          ((96, 142, 178), (238, 214, 182)), ((180, 200, 190), (240, 236, 210)))  # fmt: skip
_DUSKS = (((72, 76, 118), (196, 132, 122), (244, 190, 128)),
          ((58, 82, 112), (146, 150, 160), (238, 200, 160)),
          ((92, 70, 104), (206, 138, 134), (248, 208, 168)))  # fmt: skip
_GREENS = ((92, 122, 66), (124, 142, 78), (66, 100, 72), (148, 156, 92), (84, 116, 94),
           (150, 136, 78), (176, 146, 92))  # fmt: skip
# Sloe, elder, juniper and haw. None wears a mark's colour: with such berries in the way, a
# classifier of whole pictures often did not learn within minutes (docs/lab/trials.md).
_BERRIES = ((62, 58, 92), (84, 44, 72), (52, 70, 82), (96, 52, 58))
_BARKS = ((104, 86, 70), (122, 108, 94), (92, 82, 78), (132, 104, 78))
_LEAVES = ((98, 132, 68), (130, 150, 80), (72, 110, 74), (150, 158, 94), (88, 122, 98),
           (158, 142, 80), (182, 150, 94))  # fmt: skip
_BOULDER = ((-1.9, 9), (-1.6, 5), (-1.42, 3), (-1.28, 1.7), (-1.08, 0.8), (-0.72, 0.22), (-0.25, 0),
            (0.3, 0), (0.78, 0.26), (1.06, 0.85), (1.28, 1.7), (1.42, 3), (1.6, 5),
            (1.9, 9))  # fmt: skip


class Light:
    """The light of one picture: from above, from either side, warm or cold, bright or dim."""

    def __init__(self, rng: Random) -> None:
        angle = math.radians(rng.uniform(35, 145))
        self.toward = (math.cos(angle), -math.sin(angle))  # x right and y down, of length 1
        warmth, bright = rng.uniform(-1, 1), rng.uniform(0.9, 1.12)
        self.strength = rng.uniform(0.7, 1.25)  # how much brighter the lit side is
        self.grade = (bright * (1 + 0.05 * warmth), bright, bright * (1 - 0.1 * warmth))


def paint_background(size: tuple[int, int], light: Light, rng: Random) -> Image.Image:
    """Return an out-of-focus landscape of the given size in pixels, with discs of light."""
    zoom = _BACKGROUND_SIDE / max(size)
    small = (max(8, round(size[0] * zoom)), max(8, round(size[1] * zoom)))
    # Landscape, its blur; number, range of radius, colours of the discs, that are not blurred.
    paint, blur, discs, radius, glow = rng.choice((
        (_meadow, 2.2, 12, (0.02, 0.06), ((246, 244, 214), (230, 236, 200))),
        (_hills, 1.3, 0, (0, 0), ()),
        (_lake, 1.2, 10, (0.003, 0.01), ((255, 252, 240),)),
        (_wood, 2, 18, (0.012, 0.045), ((236, 240, 190), (206, 222, 160))),
        (_dusk, 0.9, 0, (0, 0), ()),
        (_winter, 1.2, 46, (0.003, 0.013), ((255, 255, 255), (250, 252, 255))),
    ))  # fmt: skip
    image = blurred(paint(small, rng), blur)
    _twigs(image, rng)
    # The landscape is brighter towards the light.
    across = np.linspace(-1, 1, small[0])[None, :, None] - 0.9 * light.toward[0]
    down = np.linspace(-1, 1, small[1])[:, None, None] - 0.9 * light.toward[1]
    share = 0.34 * light.strength * np.exp(-1.1 * (across**2 + down**2))
    pixels = np.asarray(blurred(image, 0.8), dtype=np.float64)
    lit = (pixels + share * (np.array((255, 246, 222)) - pixels)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(lit).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(discs):
        x, y = rng.uniform(0, size[0]), rng.triangular(0, 1, 0.2) * size[1]
        r = rng.uniform(*radius) * max(size)
        colour, alpha = rng.choice(glow), rng.randint(18, 64)
        draw.ellipse(oval(x, y, r), (*colour, alpha), (*colour, alpha // 4), max(1, round(r / 8)))
    return image


def _twigs(image: Image.Image, rng: Random) -> None:
    """Paint none to three twigs with leaves far behind the bird."""
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(max(0, rng.randint(-2, 3))):
        x, side = (0.0, 1) if rng.random() < 0.5 else (float(image.width), -1)
        y, angle = rng.uniform(0, 0.8) * image.height, rng.uniform(-0.5, 0.7)
        wood, leaf = mix((90, 78, 66), (40, 44, 40), rng.random()), rng.choice(_GREENS)
        for _ in range(rng.randint(5, 10)):
            step = rng.uniform(5, 8)
            ahead, angle = x + side * step * math.cos(angle), angle + rng.uniform(-0.3, 0.3)
            low = y + step * math.sin(angle)
            draw.line((x, y, ahead, low), fill=(*wood, 150), width=1)
            long, up = rng.uniform(2, 4), rng.uniform(-2.5, 2.5)
            tone = darker(leaf, rng.uniform(0.6, 1.1))
            draw.ellipse(oval(ahead, low + up, long, 1.4), fill=(*tone, 170))
            x, y = ahead, low


def paint_berries(image: Image.Image, rng: Random) -> None:
    """Paint sprays of ripe, dark berries around the bird, in place."""
    draw, longer = ImageDraw.Draw(image), max(image.size)
    green, thin = (72, 78, 52), max(1, round(0.0026 * longer))
    for _ in range(rng.randint(0, 4)):
        x, y = rng.uniform(0.02, 0.98) * image.width, rng.uniform(0.03, 0.97) * image.height
        colour, lean = rng.choice(_BERRIES), rng.uniform(-0.08, 0.08) * longer
        # A spray in the upper half hangs into the picture, one in the lower half grows into it.
        hangs = y < image.height / 2
        fork, border = y - (0.045 if hangs else -0.045) * longer, 0 if hangs else image.height
        knots = [(x + lean, border), (x + 0.3 * lean, (fork + border) / 2), (x, fork)]
        draw.line(smooth(knots, closed=False).ravel().tolist(), fill=green, width=thin)
        for _ in range(rng.randint(1, 4)):
            r = rng.uniform(0.006, 0.0125) * longer
            left, top = x + rng.gauss(0, 0.017) * longer, y + rng.gauss(0, 0.014) * longer
            draw.line((x, fork, left, top), fill=green, width=thin)
            draw.ellipse(oval(left, top, r), fill=darker(colour, 0.78))
            draw.ellipse(oval(left, top, 0.84 * r), fill=colour)
            glint = oval(left - 0.35 * r, top - 0.4 * r, 0.3 * r)
            draw.ellipse(glint, fill=mix(colour, (255, 255, 255), 0.6))


def _blobs(
    image: Image.Image, rng: Random, count: int, colours: Palette, radius: Span, rows: Span = (0, 1)
) -> Image.Image:
    """Return the picture with see-through discs strewn over some rows, in place."""
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(count):
        x, y = rng.uniform(0, image.width), rng.uniform(*rows) * image.height
        r = rng.uniform(*radius) * _BACKGROUND_SIDE
        colour = mix(rng.choice(colours), rng.choice(colours), rng.random())
        draw.ellipse(oval(x, y, r), fill=(*colour, rng.randint(45, 90)))
    return image


def _ridge(image: Image.Image, rng: Random, level: float, colour: Colour) -> None:
    """Paint a line of hills from `level` (share of the height) down."""
    width, height = image.size
    phase, waves, swing = rng.uniform(0, 6.3), rng.uniform(0.6, 2), rng.uniform(0.02, 0.06)
    x = np.linspace(-1, width + 1, 40)
    turn = waves * 6.3 * x / width
    y = height * (level + swing * (np.sin(turn + phase) + 0.4 * np.sin(2.3 * turn - phase)))
    crest = np.stack((x, y), axis=1).ravel().tolist()
    ImageDraw.Draw(image).polygon([*crest, width + 1, height + 1, -1, height + 1], fill=colour)


def _meadow(size: tuple[int, int], rng: Random) -> Image.Image:
    top, low = rng.choice(_GREENS), rng.choice(_GREENS)
    image = gradient(size, [(0, mix(top, (236, 238, 206), 0.6)), (0.5, top), (1, darker(low, 0.8))])
    grass = (top, low, (222, 220, 160), darker(low, 0.7))
    return _blobs(image, rng, 34, grass, radius=(0.04, 0.16))


def _hills(size: tuple[int, int], rng: Random) -> Image.Image:
    sky, haze = rng.choice(_SKIES)
    image = gradient(size, [(0, sky), (0.65, haze), (1, haze)])
    _blobs(image, rng, 10, ((248, 246, 240), haze), radius=(0.05, 0.12), rows=(0, 0.4))
    image = blurred(image, 3)
    level, green = rng.uniform(0.42, 0.6), rng.choice(_GREENS)
    for step in range(4):
        _ridge(image, rng, level + 0.13 * step, mix(mix(sky, haze, 0.6), green, 0.25 + 0.2 * step))
    petals = (mix(green, (244, 238, 214), 0.8), mix(green, (214, 196, 210), 0.7), green)
    return _blobs(image, rng, 22, petals, radius=(0.006, 0.02), rows=(level + 0.42, 1.05))


def _lake(size: tuple[int, int], rng: Random) -> Image.Image:
    (width, height), (sky, haze) = size, rng.choice(_SKIES)
    level, shore = rng.uniform(0.3, 0.5), mix(rng.choice(_GREENS), sky, 0.35)
    water = darker(mix(sky, shore, 0.3), 0.9)
    image = gradient(size, [(0, sky), (level, haze)])
    _ridge(image, rng, level - 0.1, shore)
    top = round(level * height)
    pool = gradient(size, [(0, darker(shore, 0.85)), (0.25, water), (1, haze)])
    image.paste(pool.resize((width, height - top)), (0, top))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(26):
        y, x, long = rng.uniform(top + 1, height), rng.uniform(0, width), rng.uniform(4, 16)
        tone = rng.choice(((250, 248, 238), darker(water, 0.7)))
        draw.ellipse(oval(x, y, long, 0.8), fill=(*tone, rng.randint(40, 110)))
    return image


def _wood(size: tuple[int, int], rng: Random) -> Image.Image:
    green = mix(rng.choice(_GREENS), (40, 66, 58), 0.32)
    image = gradient(size, [(0, mix(green, (226, 232, 190), 0.35)), (1, darker(green, 0.55))])
    draw = ImageDraw.Draw(image)
    for _ in range(7):
        x, wide = rng.uniform(0, size[0]), rng.uniform(1, 5)
        trunk = mix(mix((72, 64, 58), green, rng.uniform(0.3, 0.8)), (0, 0, 0), 0.1)
        draw.polygon([x, 0, x + wide, 0, x + wide * 1.2, size[1], x - 1, size[1]], fill=trunk)
    leaves = (green, mix(green, (220, 224, 150), 0.5), darker(green, 0.6))
    return _blobs(image, rng, 36, leaves, radius=(0.03, 0.12))


def _dusk(size: tuple[int, int], rng: Random) -> Image.Image:
    width, height = size
    high, middle, low = rng.choice(_DUSKS)
    image = gradient(size, [(0, high), (0.45, middle), (0.75, low), (1, middle)])
    streaks = (low, mix(middle, low, 0.5), (252, 226, 190))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(12):
        x, y, long = rng.uniform(0, width), rng.uniform(0.1, 0.6) * height, rng.uniform(8, 30)
        draw.ellipse(oval(x, y, long, 1.2), fill=(*rng.choice(streaks), rng.randint(40, 100)))
    x, y, r = rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.65) * height, rng.uniform(4, 8)
    draw.ellipse(oval(x, y, r), fill=(255, 238, 206, 200))
    image = blurred(image, 1.8)
    level, far = rng.uniform(0.62, 0.78), mix(middle, high, 0.5)
    for step in range(3):
        _ridge(image, rng, level + 0.1 * step, mix(far, (44, 44, 62), 0.3 * step))
    return image


def _winter(size: tuple[int, int], rng: Random) -> Image.Image:
    sky = mix((150, 178, 206), (206, 204, 210), rng.random())
    dawn = mix((236, 216, 204), (224, 230, 236), rng.random())
    image = gradient(size, [(0, sky), (0.6, dawn), (1, (206, 216, 228))])
    _ridge(image, rng, rng.uniform(0.5, 0.65), mix(sky, (112, 124, 132), 0.5))
    trees = (mix(sky, (104, 110, 112), 0.6), mix(sky, (134, 124, 116), 0.5))
    _blobs(image, rng, 22, trees, radius=(0.03, 0.1), rows=(0.4, 0.75))
    image = blurred(image, 2)
    _ridge(image, rng, rng.uniform(0.74, 0.84), (232, 236, 240))
    return image


class Perch:
    """What the bird stands on: a branch (most often), a reed, a stone or a fence post."""

    def __init__(self, rng: Random) -> None:
        self.kind = rng.choice(("branch", "branch", "branch", "reed", "stone", "post"))
        thin, thick = rng.uniform(0.08, 0.11), rng.uniform(0.16, 0.3)
        self.thickness = thin if self.kind == "reed" else thick
        slope = rng.uniform(-0.3, 0.3)
        self.slope = {"branch": slope, "reed": 1.4 * slope}.get(self.kind, 0.0)  # of its top

    def paint(self, brush: Brush, level: float, rng: Random) -> None:
        """Paint it, its top at a level under the bird, out to the picture's borders."""
        painters = {"stone": _stone, "post": _post}
        painters.get(self.kind, _branch)(brush, self, level, rng)


def _branch(brush: Brush, perch: Perch, level: float, rng: Random) -> None:
    reed, bark = perch.kind == "reed", rng.choice(_BARKS)
    bark = mix(bark, (136, 142, 84), 0.75) if reed else bark
    x = np.linspace(-9, 9, 25)
    bow, phase = rng.uniform(-0.012, 0.03), rng.uniform(0, 6.3)
    taper = rng.choice((-1, 1)) * rng.uniform(0.02, 0.07)
    top = level + perch.slope * x + bow * x**2 + 0.02 * np.sin(2.1 * x + phase) * abs(x)
    thick = perch.thickness * np.clip(1 + taper * x, 0.35, 1.7)
    upper = smooth(np.stack((x, top), axis=1), closed=False)
    under = smooth(np.stack((x, top + thick), axis=1), closed=False)
    if reed:
        _reeds(brush, level, bark, rng)
    _leaves(brush, upper, rng, reed=reed)
    brush.fill([*upper, *under[::-1]], bark)
    middle, lower = upper + (under - upper) * 0.18, upper + (under - upper) * 0.62
    brush.fill([*lower, *under[::-1]], mix(darker(bark, 0.66), (60, 58, 84), 0.15))
    brush.fill([*upper, *middle[::-1]], mix(bark, (244, 232, 206), 0.34))
    for _ in range(0 if reed else 46):
        i, share = rng.randrange(len(upper) - 6), rng.uniform(0.15, 0.9)
        line = (upper + (under - upper) * share)[i : i + rng.randint(3, 6)]
        tone = darker(bark, 0.7) if rng.random() < 0.6 else mix(bark, (236, 224, 200), 0.25)
        brush.stroke(line, tone, 0.018)
    if rng.random() < 0.3 and not reed:
        _blossoms(brush, upper, rng)


def _reeds(brush: Brush, level: float, green: Colour, rng: Random) -> None:
    """Paint a few upright reeds with brown heads behind the one that carries the bird."""
    for _ in range(rng.randint(3, 6)):
        x, lean, top = rng.uniform(-3, 3), rng.uniform(-0.5, 0.5), level - rng.uniform(0.6, 2.6)
        tone = mix(_vary(green, rng), (150, 160, 150), rng.uniform(0.1, 0.5))
        stem = smooth([(x, level + 7), (x, level + 1), (x + lean, top)], closed=False)
        brush.stroke(stem, tone, 0.045)
        tip, along = stem[-1], (stem[-1] - stem[-6]) / float(np.hypot(*(stem[-1] - stem[-6])))
        brush.stroke([tip - 0.1 * along, tip + 0.36 * along], (112, 84, 62), 0.11)
        brush.stroke([tip, tip + 0.3 * along], (136, 104, 76), 0.035)
        brush.stroke([tip, tip + 0.5 * along], tone, 0.02)


def _blossoms(brush: Brush, path: Points, rng: Random) -> None:
    petal = mix((246, 238, 234), (232, 206, 210), rng.random())
    for _ in range(rng.randint(6, 12)):
        centre = rng.choice(path) + at(rng.uniform(-0.1, 0.1), rng.uniform(-0.12, 0.1))
        size, turn = rng.uniform(0.05, 0.085), rng.uniform(0, 6.3)
        for step in range(5):
            angle = turn + 1.257 * step
            tone = darker(petal, 1.0 if math.sin(angle) < 0 else 0.9)
            brush.dot(centre + size * at(math.cos(angle), math.sin(angle)), 0.8 * size, tone)
        brush.dot(centre, 0.45 * size, (196, 164, 112))


def _leaves(brush: Brush, path: Points, rng: Random, *, reed: bool) -> None:
    """Paint leaves with a stalk, a lit and a shaded half and a midrib along a branch."""
    green = mix(rng.choice(_LEAVES), rng.choice(_LEAVES), rng.random())
    count, long = rng.randint(7, 14), rng.uniform(0.4, 0.62)
    t = np.linspace(0, 1, 10)
    for _ in range(count):
        start = rng.choice(path) + at(0, 0.03)
        angle = rng.uniform(-2.7, -0.4) if rng.random() < 0.6 else rng.uniform(0.4, 2.7)
        length = long * rng.uniform(0.7, 1.2) * (2.2 if reed else 1)
        width = 0.05 if reed else rng.uniform(0.09, 0.13)
        colour = _vary(green, rng)
        ahead = at(math.cos(angle), math.sin(angle))
        across = at(-ahead[1], ahead[0])
        spine = start + ahead * 0.12 + t[:, None] * length * ahead
        spine = spine + (0.12 * length * t**2)[:, None] * at(0, 1)
        half = (width * np.sin(np.pi * t**0.8))[:, None] * across
        sunny, shady = (half, -half) if across[1] < 0 else (-half, half)
        brush.stroke([start, spine[0]], darker(colour, 0.7), 0.03)
        brush.fill([*spine, *(spine + shady)[::-1]], darker(colour, 0.74))
        brush.fill([*spine, *(spine + sunny)[::-1]], mix(colour, (240, 240, 190), 0.16))
        brush.stroke(spine, mix(colour, (240, 240, 200), 0.4), 0.012)


def _vary(colour: Colour, rng: Random) -> Colour:
    return darker(mix(colour, (214, 206, 130), rng.uniform(0, 0.3)), rng.uniform(0.75, 1.15))


def _stone(brush: Brush, _: Perch, level: float, rng: Random) -> None:
    grey = mix((120, 118, 118), (152, 138, 122), rng.random())
    side, top = rng.choice((-1, 1)), level - 0.03
    beside = at(side * rng.uniform(1.0, 1.7), top + rng.uniform(0.35, 0.7))
    _boulder(brush, beside, at(rng.uniform(0.6, 0.9), 0.7), darker(grey, 0.86), rng)
    place, size = at(rng.uniform(-0.3, 0.4), top), at(rng.uniform(1.0, 1.6), rng.uniform(0.8, 1.3))
    _boulder(brush, place, size, grey, rng)


def _boulder(brush: Brush, top: Points, size: Points, grey: Colour, rng: Random) -> None:
    """Paint one boulder, lit along its upper edge, from its top down out of the picture."""
    bumpy = [(x * rng.uniform(0.92, 1.08), y * rng.uniform(0.8, 1.2)) for x, y in _BOULDER]
    rim = top + smooth(bumpy, closed=False) * size
    lit, shady = mix(grey, (250, 242, 224), 0.38), mix(darker(grey, 0.56), (62, 66, 92), 0.2)
    for step in range(16):
        brush.fill(rim + at(0, 0.05 * step + 0.004 * step**2), mix(lit, shady, (step / 15) ** 0.7))
    moss = mix((112, 128, 72), (146, 148, 96), rng.random())
    for _ in range(40):
        x, depth = top[0] + rng.uniform(-1.05, 1.05) * size[0], rng.triangular(0.0, 1.2, 0.05)
        y = np.interp(x, *rim.T) + 0.03 + depth
        tone = rng.choice((darker(grey, 0.72), mix(grey, (240, 234, 214), 0.35), moss, moss))
        tone = mix(tone, shady, min(0.85, depth))
        brush.dot((x, y), rng.uniform(0.012, 0.055), tone, 0.55)
    for _ in range(rng.randint(1, 3)):
        x = top[0] + rng.uniform(-0.7, 0.7) * size[0]
        crack = [(x, np.interp(x, *rim.T) + 0.12)]
        for _ in range(4):
            crack.append((crack[-1][0] + rng.uniform(-0.12, 0.12), crack[-1][1] + 0.14))
        brush.stroke(crack, mix(shady, (30, 30, 40), 0.3), 0.016)


def _post(brush: Brush, _: Perch, level: float, rng: Random) -> None:
    wood = mix((140, 124, 106), (118, 112, 108), rng.random())
    half, centre = rng.uniform(0.36, 0.5), 0.08
    left, right, top = centre - half, centre + half, level - 0.02
    brush.fill([(left, top), (right, top), (right + 0.03, 9), (left - 0.03, 9)], wood)
    for share in range(5):
        x, tone = right - half * (0.75 - 0.15 * share), darker(wood, 0.94 - 0.07 * share)
        brush.fill([(x, top), (right, top), (right + 0.03, 9), (x, 9)], tone)
    brush.dot((centre, top + 0.03), half, mix(wood, (246, 236, 214), 0.4), 0.2)
    for _ in range(16):
        x, y = rng.uniform(left + 0.04, right - 0.04), top + rng.uniform(0.12, 2.5)
        long, bend = rng.uniform(0.2, 1.2), rng.uniform(-0.02, 0.02)
        brush.stroke([(x, y), (x + bend, y + long)], darker(wood, rng.uniform(0.55, 0.85)), 0.016)


def finish(image: Image.Image, light: Light, rng: Random) -> Image.Image:
    """Return the picture graded by the light, more saturated, with paper grain and a vignette."""
    noise = np.random.default_rng(rng.getrandbits(32))
    grain = noise.integers(-3, 4, size=(image.height, image.width, 1), dtype=np.int8)
    across = np.linspace(-1, 1, image.width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, image.height, dtype=np.float32)[:, None, None]
    lean = 0.05 * (light.toward[0] * across + light.toward[1] * down)
    tone = 1.02 + lean - 0.07 * (across**2 + down**2)
    strength = 1.18  # of the finished colours over the painted ones; judged by eye
    saturated = strength * np.eye(3) + (1 - strength) * np.array((0.30, 0.59, 0.11))
    grading = np.hstack((np.array(light.grade)[:, None] * saturated, np.zeros((3, 1))))
    graded = np.asarray(image.convert("RGB", grading.ravel().tolist()), dtype=np.float32)
    return Image.fromarray((graded * tone + grain).clip(0, 255).astype(np.uint8))
