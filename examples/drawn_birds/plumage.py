"""Plumage of the drawn birds: soft colours, light, feathers, and the parts that may be marked."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from drawn_birds.anatomy import Bird
from drawn_birds.brushes import Brush, Colour, Frame, Points, at, darker, mix, smooth
from drawn_birds.scenery import Light

_WING = ((0.68, 0.02), (0.5, 0.3), (-0.1, 0.38), (-0.7, 0.24), (-1.2, 0.1), (-0.7, -0.14),
         (-0.1, -0.32), (0.4, -0.26))  # fmt: skip
# Outline of the folded wing, along and across the body's axis.

# Points of a circle of radius 1.
_CIRCLE = np.stack((np.cos(np.linspace(0, 6.2, 24)), np.sin(np.linspace(0, 6.2, 24))), axis=1)


def soft_plumage(bird: Bird, frame: Frame, size: tuple[int, int]) -> Image.Image:
    """Return the body's colours as blurred patches, without light."""
    colours, m = bird.colours, bird.plumpness
    image = Image.new("RGB", size, colours.back)
    brush = Brush(image, frame)
    belly = [
        (-1.1, -0.02),
        (-0.4, -0.2),
        (0.3, -0.2),
        (0.8, -0.02),
        (1.3, -0.2),
        (0.9, -1),
        (-0.8, -1),
    ]
    brush.fill(smooth([bird.body(s, t * m) for s, t in belly]), colours.belly)
    breast = [(0.3, -0.2), (0.75, 0.0), (1.2, -0.1), (1.1, -0.6), (0.5, -0.75)]
    brush.fill(smooth([bird.body(s, t * m) for s, t in breast]), colours.breast)
    brush.dot(bird.head_centre, bird.head_radius * 0.98, colours.back)
    brush.dot(bird.head(0.25, -0.25), bird.head_radius * 0.6, colours.face)
    brush.dot(
        bird.head(0.55, -0.85), bird.head_radius * 0.32, mix(colours.breast, colours.belly, 0.5)
    )
    cap = [
        bird.head(f, u) for f, u in ((0.8, 0.6), (0.1, 0.72), (-0.7, 0.5), (-0.9, 1.2), (0.7, 1.2))
    ]
    brow = [bird.head(f, u) for f, u in ((0.75, 0.3), (0.1, 0.5), (-0.6, 0.3), (0.1, 0.36))]
    brush.fill(smooth(brow), mix(colours.back, colours.belly, bird.brow))
    lore = [bird.head(f, u) for f, u in ((0.95, 0.06), (0.3, 0.22), (-0.25, 0.0), (0.3, 0.0))]
    brush.fill(smooth(lore), darker(colours.back, 0.6))
    brush.fill(smooth(cap), darker(colours.back, 0.86))
    under = [bird.body(s, t - 0.05) for s, t in _WING]
    brush.fill(smooth(under), darker(colours.belly, 0.7))
    return image.filter(ImageFilter.GaussianBlur(0.085 * frame.scale))


def shading(bird: Bird, light: Light, frame: Frame, size: tuple[int, int]) -> Image.Image:
    """Return the light on the bird as a hard-light layer: below grey darkens, above lights."""
    height = np.zeros((size[1], size[0]))
    bulges = (
        (bird.outline, 0.30, 1.0),
        (bird.outline, 0.07, 0.1),
        (bird.head_centre + bird.head_radius * _CIRCLE, 0.16, 0.3),
        (smooth([bird.body(s, t) for s, t in _WING]), 0.10, 0.16),
    )
    for points, blur, weight in bulges:
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon(frame.pixels(points).ravel().tolist(), fill=255)
        soft = mask.filter(ImageFilter.GaussianBlur(blur * frame.scale))
        height += weight * np.asarray(soft, dtype=np.float64) / 255
    slope_y, slope_x = np.gradient(height * frame.scale)
    lit = -(slope_x * light.toward[0] + slope_y * light.toward[1])
    value = np.clip(0.51 + 0.16 * light.strength * lit, 0.3, 0.66)[..., None]
    tint = np.where(value < 0.5, (-0.03, -0.03, 0.09), (0.1, 0.02, -0.12)) * abs(value - 0.5)
    return Image.fromarray(((value + tint).clip(0, 1) * 255).astype(np.uint8))


def paint_tail(brush: Brush, bird: Bird, band: Colour | None) -> None:
    """Paint the tail feathers, with a band across them if it has a colour."""
    wing = bird.colours.wing
    stripe = None if band is None else (0.74, 0.85, band)
    for index, (root, tip) in enumerate(bird.tail_feathers):
        vane = darker(wing, 0.72 + 0.07 * index)
        brush.feather(root, tip, 0.24, vane, mix(vane, bird.colours.belly, 0.3), stripe)


def paint_plumes(brush: Brush, bird: Bird, strokes: Points) -> None:
    """Paint short plumes over the body, and streaks on the breast of a streaked bird."""
    colours, m = bird.colours, bird.plumpness
    pale, dark = mix(colours.back, (250, 240, 220), 0.16), mix(colours.back, (30, 26, 30), 0.16)
    streak = darker(colours.wing, 0.8)
    across = 0.02 * bird.body(0, 1)
    for s, t, tone, long in strokes.tolist():
        behind = (0.08 + 0.07 * long) * bird.body(1, 0.15)
        if tone < 0.4:
            place = bird.body(-0.8 + 1.25 * s, 0.44 - 0.25 * t - 0.15 * abs(s - 0.5))
            brush.stroke(np.stack((place, place - behind)), pale if tone < 0.2 else dark, 0.022)
        else:
            place = bird.body(-0.5 + 1.25 * s, (-0.32 - 0.25 * t * (1 - abs(s - 0.5))) * m)
            base = colours.belly if s < 0.6 else mix(colours.belly, colours.breast, 2.4 * s - 1.4)
            colour = mix(base, streak, 0.08 + 0.5 * bird.streaks * tone)
            brush.fill(np.stack((place, place - behind + across, place - behind - across)), colour)


def paint_wing(brush: Brush, bird: Bird, bar: Colour | None) -> None:
    """Paint the folded wing, longest feathers first, with a bar if it has a colour."""
    wing, back = bird.colours.wing, bird.colours.back
    brush.fill(smooth([bird.body(s, t) for s, t in _WING]), darker(wing, 0.8))
    tips = None if bar is None else (0.72, 1.0, bar)
    rows = (
        (5, (-0.1, -0.1), (-0.1, 0.1), (-0.72, -0.16), (-1.3, 0.08), 0.15, 0.72, None),
        (5, (0.3, -0.2), (0.25, 0.2), (-0.42, -0.3), (-0.86, 0.24), 0.19, 0.9, None),
        (6, (0.5, -0.2), (0.4, 0.24), (0.02, -0.33), (-0.2, 0.33), 0.17, 1.05, tips),
        (5, (0.64, -0.12), (0.5, 0.24), (0.3, -0.28), (0.12, 0.36), 0.18, 1.16, None),
    )
    for count, root_low, root_high, tip_low, tip_high, width, tone, band in rows:
        for i in range(count):
            share = i / (count - 1)
            root = bird.body(*(np.add(root_low, share * np.subtract(root_high, root_low))))
            tip = bird.body(*(np.add(tip_low, share * np.subtract(tip_high, tip_low))))
            vane = mix(darker(wing, tone), back, 0.12 * share)
            striped = band if 0 < i < count - 1 else None
            brush.feather(root, tip, width, vane, mix(vane, bird.colours.belly, 0.34), striped)
    shoulder = [(0.72, 0.0), (0.56, 0.34), (0.22, 0.42), (0.36, 0.1), (0.46, -0.2)]
    brush.fill(smooth([bird.body(s, t) for s, t in shoulder]), mix(wing, back, 0.75))


def paint_crown(brush: Brush, bird: Bird, colour: Colour | None) -> None:
    """Paint the crown patch, if it has a colour, with a few plumes combed to the nape."""
    if colour is None:
        return
    rim = [(0.7, 0.62), (0.42, 0.86), (0.08, 0.96), (-0.22, 0.93), (-0.34, 0.82), (-0.05, 0.75),
           (0.3, 0.67)]  # fmt: skip
    brush.fill(smooth([bird.head(f, u) for f, u in rim]), colour)
    for step in range(7):
        front, up = 0.52 - 0.1 * step, 0.78 + 0.04 * (step % 3)
        line = np.stack((bird.head(front, up), bird.head(front - 0.13, up - 0.02)))
        brush.stroke(line, darker(colour, 0.82), 0.018)
    sheen = [bird.head(f, u) for f, u in ((0.4, 0.82), (0.05, 0.91), (-0.3, 0.85))]
    brush.stroke(smooth(sheen, closed=False), mix(colour, (255, 250, 236), 0.3), 0.026)


def paint_bill(brush: Brush, bird: Bird, colour: Colour | None) -> None:
    """Paint the two mandibles, grey horn unless they have a colour."""
    colour = bird.colours.bill if colour is None else colour
    tip, half = bird.bill_tip, bird.bill[1] / 2 / bird.head_radius
    gape, high, low = bird.head(0.78, -0.08), bird.head(0.84, half), bird.head(0.78, -0.1 - half)
    ridge = (high + tip) / 2 + (bird.head(0, 0.25 * half) - bird.head_centre)
    keel = (low + tip) / 2 - (bird.head(0, 0.2 * half) - bird.head_centre)
    short = tip * 0.92 + gape * 0.08
    brush.fill(np.stack((gape, short, keel, low)), darker(colour, 0.74))
    brush.fill(np.stack((gape, high, ridge, tip)), colour)
    brush.stroke(np.stack((high, ridge)), mix(colour, (255, 255, 255), 0.4), 0.022)
    brush.stroke(np.stack((gape, tip)), darker(colour, 0.45), 0.014)


def paint_eye_ring(brush: Brush, bird: Bird, colour: Colour | None) -> None:
    """Paint the ring around the eye, if it has a colour."""
    if colour is not None:
        brush.dot(bird.eye, 0.142, darker(colour, 0.86))
        brush.dot(bird.eye - at(0, 0.008), 0.133, colour)


def paint_eye(brush: Brush, bird: Bird, light: Light) -> None:
    """Paint the dark eye with its glint towards the light."""
    side = brush.frame.mirror
    brush.dot(bird.eye, 0.1, (34, 26, 26))
    brush.dot(bird.eye + at(0.01 * side, 0.03), 0.06, (88, 62, 46))
    brush.dot(bird.eye, 0.066, (16, 12, 14))
    glint = at(light.toward[0] * side, light.toward[1]) * 0.045
    brush.dot(bird.eye + glint, 0.03, (255, 255, 255))
