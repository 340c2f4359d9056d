"""Light, background and perch of the drawn birds."""

import math
import random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from drawn_birds.brushes import Colour, darker, gradient, mix, smooth

# Longer side in pixels at which backgrounds are painted: they are out of focus anyway.
_BACKGROUND_SIDE = 80
# How much stronger the finished colours are than the painted ones; judged by eye.
_SATURATION = 1.18
_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((124, 170, 206), (222, 232, 226)),
    ((168, 190, 204), (232, 230, 220)),
    ((96, 142, 178), (238, 214, 182)),
    ((180, 200, 190), (240, 236, 210)),
)
_DUSKS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((72, 76, 118), (196, 132, 122), (244, 190, 128)),
    ((58, 82, 112), (146, 150, 160), (238, 200, 160)),
    ((92, 70, 104), (206, 138, 134), (248, 208, 168)),
)
# Sloe, elder, juniper and haw: far from the colours of the marks.
_GREENS: tuple[Colour, ...] = (
    (92, 122, 66), (124, 142, 78), (66, 100, 72), (148, 156, 92), (84, 116, 94), (150, 136, 78),
    (176, 146, 92),
)  # fmt: skip
_BERRIES: tuple[Colour, ...] = ((62, 58, 92), (84, 44, 72), (52, 70, 82), (96, 52, 58))


class Light(NamedTuple):
    """The light of one picture."""

    toward: tuple[float, float]
    strength: float
    grade: tuple[float, float, float]


def random_light(rng: random.Random) -> Light:
    """Draw a light from above, from either side, warm or cold, bright or dim."""
    angle = math.radians(rng.uniform(35, 145))
    warmth, bright = rng.uniform(-1, 1), rng.uniform(0.9, 1.12)
    return Light(
        (math.cos(angle), -math.sin(angle)),
        rng.uniform(0.7, 1.25),
        (bright * (1 + 0.05 * warmth), bright, bright * (1 - 0.1 * warmth)),
    )


def paint_background(size: tuple[int, int], light: Light, rng: random.Random) -> Image.Image:
    """Return an out-of-focus landscape of the given size in pixels."""
    zoom = _BACKGROUND_SIDE / max(size)
    small = (max(8, round(size[0] * zoom)), max(8, round(size[1] * zoom)))
    paint = rng.choice((_meadow, _hills, _lake, _wood, _dusk, _winter))
    scene = paint(small, rng)
    image = _glow(_twigs(scene.image, rng), light).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(scene.discs):
        x, y = rng.uniform(0, size[0]), rng.triangular(0, 1, 0.2) * size[1]
        r = rng.uniform(*scene.radius) * max(size)
        colour, alpha = rng.choice(scene.glow), rng.randint(18, 64)
        box = (x - r, y - r, x + r, y + r)
        draw.ellipse(box, (*colour, alpha), (*colour, alpha // 4), max(1, round(r / 8)))
    return image


class _Scene(NamedTuple):
    """A blurred landscape, and the discs of light that are laid over it unblurred."""

    image: Image.Image
    glow: tuple[Colour, ...] = ()
    discs: int = 0
    radius: tuple[float, float] = (0.02, 0.06)


def _glow(image: Image.Image, light: Light) -> Image.Image:
    """Return the small background brightened towards the light."""
    width, height = image.size
    across = np.linspace(-1, 1, width)[None, :, None] - 0.9 * light.toward[0]
    down = np.linspace(-1, 1, height)[:, None, None] - 0.9 * light.toward[1]
    share = 0.34 * light.strength * np.exp(-1.1 * (across**2 + down**2))
    pixels = np.asarray(image, dtype=np.float64)
    lit = pixels + share * (np.array((255, 246, 222)) - pixels)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def _twigs(image: Image.Image, rng: random.Random) -> Image.Image:
    """Paint none to three twigs with leaves far behind the bird, and blur the whole."""
    width, height = image.size
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(max(0, rng.randint(-2, 3))):
        x, side = (0.0, 1) if rng.random() < 0.5 else (float(width), -1)
        y, angle = rng.uniform(0, 0.8) * height, rng.uniform(-0.5, 0.7)
        wood, leaf = mix((90, 78, 66), (40, 44, 40), rng.random()), rng.choice(_GREENS)
        for _ in range(rng.randint(5, 10)):
            step = rng.uniform(5, 8)
            ahead, angle = x + side * step * math.cos(angle), angle + rng.uniform(-0.3, 0.3)
            low = y + step * math.sin(angle)
            draw.line((x, y, ahead, low), fill=(*wood, 150), width=1)
            long, up = rng.uniform(2, 4), rng.uniform(-2.5, 2.5)
            box = (ahead - long, low + up - 1.4, ahead + long, low + up + 1.4)
            draw.ellipse(box, fill=(*darker(leaf, rng.uniform(0.6, 1.1)), 170))
            x, y = ahead, low
    return image.filter(ImageFilter.GaussianBlur(0.8))


def paint_berries(image: Image.Image, rng: random.Random) -> None:
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
            radius = rng.uniform(0.006, 0.0125) * longer
            left, top = x + rng.gauss(0, 0.017) * longer, y + rng.gauss(0, 0.014) * longer
            draw.line((x, fork, left, top), fill=green, width=thin)
            for share, tone in ((1.0, 0.78), (0.84, 1.0)):
                reach = share * radius
                box = (left - reach, top - reach, left + reach, top + reach)
                draw.ellipse(box, fill=darker(colour, tone))
            glint, spot = 0.3 * radius, (left - 0.35 * radius, top - 0.4 * radius)
            box = (spot[0] - glint, spot[1] - glint, spot[0] + glint, spot[1] + glint)
            draw.ellipse(box, fill=mix(colour, (255, 255, 255), 0.6))


def _blobs(
    image: Image.Image,
    rng: random.Random,
    *,
    count: int,
    colours: tuple[Colour, ...],
    radius: tuple[float, float],
    rows: tuple[float, float] = (0, 1),
    alpha: int = 90,
    blur: float = 1.6,
) -> Image.Image:
    """Strew see-through discs over some rows of the picture and blur the whole."""
    width, height = image.size
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(*rows) * height
        r = rng.uniform(*radius) * _BACKGROUND_SIDE
        colour = mix(rng.choice(colours), rng.choice(colours), rng.random())
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*colour, rng.randint(alpha // 2, alpha)))
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur else image


def _ridge(image: Image.Image, rng: random.Random, level: float, colour: Colour) -> None:
    """Paint a line of hills from `level` (share of the height) down."""
    width, height = image.size
    phase, waves, swing = rng.uniform(0, 6.3), rng.uniform(0.6, 2), rng.uniform(0.02, 0.06)
    x = np.linspace(-1, width + 1, 40)
    turn = waves * 6.3 * x / width
    y = height * (level + swing * (np.sin(turn + phase) + 0.4 * np.sin(2.3 * turn - phase)))
    crest = np.stack((x, y), axis=1).ravel().tolist()
    ImageDraw.Draw(image).polygon([*crest, width + 1, height + 1, -1, height + 1], fill=colour)


def _meadow(size: tuple[int, int], rng: random.Random) -> _Scene:
    top, low = rng.choice(_GREENS), rng.choice(_GREENS)
    image = gradient(size, [(0, mix(top, (236, 238, 206), 0.6)), (0.5, top), (1, darker(low, 0.8))])
    colours = (top, low, (222, 220, 160), darker(low, 0.7))
    image = _blobs(image, rng, count=34, colours=colours, radius=(0.04, 0.16), blur=2.2)
    return _Scene(image, ((246, 244, 214), (230, 236, 200)), 12)


def _hills(size: tuple[int, int], rng: random.Random) -> _Scene:
    sky, haze = rng.choice(_SKIES)
    image = gradient(size, [(0, sky), (0.65, haze), (1, haze)])
    white = ((248, 246, 240), haze)
    image = _blobs(image, rng, count=10, colours=white, radius=(0.05, 0.12), rows=(0, 0.4), blur=3)
    level, green = rng.uniform(0.42, 0.6), rng.choice(_GREENS)
    for step in range(4):
        _ridge(image, rng, level + 0.13 * step, mix(mix(sky, haze, 0.6), green, 0.25 + 0.2 * step))
    petals = (mix(green, (244, 238, 214), 0.8), mix(green, (214, 196, 210), 0.7), green)
    rows = (level + 0.42, 1.05)
    image = _blobs(image, rng, count=22, colours=petals, radius=(0.006, 0.02), rows=rows, blur=0)
    return _Scene(image.filter(ImageFilter.GaussianBlur(1.3)))


def _lake(size: tuple[int, int], rng: random.Random) -> _Scene:
    sky, haze = rng.choice(_SKIES)
    level, shore = rng.uniform(0.3, 0.5), mix(rng.choice(_GREENS), sky, 0.35)
    water = darker(mix(sky, shore, 0.3), 0.9)
    image = gradient(size, [(0, sky), (level, haze)])
    _ridge(image, rng, level - 0.1, shore)
    width, height = size
    draw = ImageDraw.Draw(image, "RGBA")
    pool = gradient((width, height), [(0, darker(shore, 0.85)), (0.25, water), (1, haze)])
    top = round(level * height)
    image.paste(pool.resize((width, height - top)), (0, top))
    for _ in range(26):
        y, x, long = rng.uniform(top + 1, height), rng.uniform(0, width), rng.uniform(4, 16)
        tone = rng.choice(((250, 248, 238), darker(water, 0.7)))
        draw.ellipse((x - long, y - 0.8, x + long, y + 0.8), fill=(*tone, rng.randint(40, 110)))
    return _Scene(
        image.filter(ImageFilter.GaussianBlur(1.2)), ((255, 252, 240),), 10, (0.003, 0.01)
    )


def _wood(size: tuple[int, int], rng: random.Random) -> _Scene:
    green = mix(rng.choice(_GREENS), (40, 66, 58), 0.32)
    image = gradient(size, [(0, mix(green, (226, 232, 190), 0.35)), (1, darker(green, 0.55))])
    draw = ImageDraw.Draw(image)
    for _ in range(7):
        x, wide = rng.uniform(0, size[0]), rng.uniform(1, 5)
        trunk = mix(mix((72, 64, 58), green, rng.uniform(0.3, 0.8)), (0, 0, 0), 0.1)
        draw.polygon([x, 0, x + wide, 0, x + wide * 1.2, size[1], x - 1, size[1]], fill=trunk)
    colours = (green, mix(green, (220, 224, 150), 0.5), darker(green, 0.6))
    image = _blobs(image, rng, count=36, colours=colours, radius=(0.03, 0.12), blur=2)
    return _Scene(image, ((236, 240, 190), (206, 222, 160)), 18, (0.012, 0.045))


def _dusk(size: tuple[int, int], rng: random.Random) -> _Scene:
    high, middle, low = rng.choice(_DUSKS)
    image = gradient(size, [(0, high), (0.45, middle), (0.75, low), (1, middle)])
    streaks = (low, mix(middle, low, 0.5), (252, 226, 190))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(12):
        x, y, long = rng.uniform(0, size[0]), rng.uniform(0.1, 0.6) * size[1], rng.uniform(8, 30)
        tone = (*rng.choice(streaks), rng.randint(40, 100))
        draw.ellipse((x - long, y - 1.2, x + long, y + 1.2), fill=tone)
    x, y, r = rng.uniform(0.1, 0.9) * size[0], rng.uniform(0.3, 0.65) * size[1], rng.uniform(4, 8)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 238, 206, 200))
    image = image.filter(ImageFilter.GaussianBlur(1.8))
    level = rng.uniform(0.62, 0.78)
    for step in range(3):
        _ridge(
            image, rng, level + 0.1 * step, mix(mix(middle, high, 0.5), (44, 44, 62), 0.3 * step)
        )
    return _Scene(image.filter(ImageFilter.GaussianBlur(0.9)))


def _winter(size: tuple[int, int], rng: random.Random) -> _Scene:
    sky = mix((150, 178, 206), (206, 204, 210), rng.random())
    dawn = mix((236, 216, 204), (224, 230, 236), rng.random())
    image = gradient(size, [(0, sky), (0.6, dawn), (1, (206, 216, 228))])
    _ridge(image, rng, rng.uniform(0.5, 0.65), mix(sky, (112, 124, 132), 0.5))
    trees = (mix(sky, (104, 110, 112), 0.6), mix(sky, (134, 124, 116), 0.5))
    image = _blobs(
        image, rng, count=22, colours=trees, radius=(0.03, 0.1), rows=(0.4, 0.75), blur=2
    )
    _ridge(image, rng, rng.uniform(0.74, 0.84), (232, 236, 240))
    image = image.filter(ImageFilter.GaussianBlur(1.2))
    return _Scene(image, ((255, 255, 255), (250, 252, 255)), 46, (0.003, 0.013))


def finish(image: Image.Image, light: Light, rng: random.Random) -> Image.Image:
    """Return the picture graded by the light, with paper grain and a soft vignette."""
    width, height = image.size
    noise = np.random.default_rng(rng.getrandbits(32))
    grain = noise.integers(-3, 4, size=(height, width, 1), dtype=np.int8).astype(np.float32)
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    lean = 0.05 * (light.toward[0] * across + light.toward[1] * down)
    tone = 1.02 + lean - 0.07 * (across**2 + down**2)
    pixels = np.asarray(image.convert("RGB", _grading(light.grade)), dtype=np.float32)
    return Image.fromarray((pixels * tone + grain).clip(0, 255).astype(np.uint8))


def _grading(grade: tuple[float, float, float]) -> tuple[float, ...]:
    """Return the colour matrix that saturates a little and then scales each channel."""
    grey = np.array((0.30, 0.59, 0.11))
    matrix = np.array(grade)[:, None] * (_SATURATION * np.eye(3) + (1 - _SATURATION) * grey)
    return tuple(float(v) for v in np.hstack((matrix, np.zeros((3, 1)))).ravel())
