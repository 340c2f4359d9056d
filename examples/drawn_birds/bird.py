"""One bird: its shape, pose and plumage, the light on it, and the parts that may be marked.

The bird looks to the right; x is forward, y is down, and half a body length is 1. Body places are
given along the body's axis (s, towards the head) and across it (t, towards the back), so that the
whole body follows when the axis is tilted.
"""

import math
from collections import namedtuple
from functools import cached_property
from random import Random

import numpy as np
from PIL import Image, ImageChops

from .brushes import Brush, Colour, Ends, Frame, Points, at, blurred, colour_of, darker, mix, smooth
from .scenery import Light

# Brown, warm grey, olive, blue-grey, rust; teal, slate, sand, moss, plum brown.
_BACKS = ((126, 94, 66), (132, 124, 116), (116, 114, 70), (94, 116, 140), (150, 94, 66),
          (70, 114, 116), (84, 88, 104), (162, 134, 100), (94, 120, 82), (114, 86, 92))  # fmt: skip
# Cream, pale grey, buff, pinkish; russet, ochre, grey, rose.
_BELLIES = ((232, 220, 196), (222, 220, 216), (226, 202, 172), (224, 204, 196))
_BREASTS = ((186, 128, 92), (196, 164, 120), (160, 156, 150), (204, 170, 150))
_LEGS = ((92, 76, 68), (120, 92, 80), (74, 72, 76))
# Along and across the axis of body or head.
_WING = ((0.68, 0.02), (0.5, 0.3), (-0.1, 0.38), (-0.7, 0.24), (-1.2, 0.1), (-0.7, -0.14),
         (-0.1, -0.32), (0.4, -0.26))  # fmt: skip
_BELLY = ((-1.1, -0.02), (-0.4, -0.2), (0.3, -0.2), (0.8, -0.02), (1.3, -0.2), (0.9, -1),
          (-0.8, -1))  # fmt: skip
_BREAST = ((0.3, -0.2), (0.75, 0.0), (1.2, -0.1), (1.1, -0.6), (0.5, -0.75))
_CROWN = ((0.7, 0.62), (0.42, 0.86), (0.08, 0.96), (-0.22, 0.93), (-0.34, 0.82), (-0.05, 0.75),
          (0.3, 0.67))  # fmt: skip
_CIRCLE = np.stack((np.cos(np.linspace(0, 6.2, 24)), np.sin(np.linspace(0, 6.2, 24))), axis=1)

Marks = dict[str, Colour]  # the marked part and its colour
# Colours of one bird, all of them muted; none of them tells the class.
Plumage = namedtuple("Plumage", "back belly breast wing face legs bill")


def _jitter(colour: Colour, rng: Random) -> Colour:
    """Return the colour a little lighter or darker, and each channel a little off."""
    light = rng.uniform(0.88, 1.12)
    return colour_of(channel * light + rng.uniform(-8, 8) for channel in colour)


def _random_plumage(rng: Random) -> Plumage:
    back = _jitter(rng.choice(_BACKS), rng)
    belly = mix(_jitter(rng.choice(_BELLIES), rng), back, rng.uniform(0.0, 0.2))
    breast = mix(belly, _jitter(rng.choice(_BREASTS), rng), rng.uniform(0.0, 1.0))
    wing = darker(mix(back, (92, 84, 80), rng.uniform(0.0, 0.6)), rng.uniform(0.66, 0.84))
    face = mix(back, rng.choice((belly, breast, darker(back, 0.6))), rng.uniform(0.1, 0.55))
    legs, bill = rng.choice(_LEGS), darker((102, 98, 96), rng.uniform(0.75, 1.2))
    return Plumage(back, belly, breast, wing, face, legs, bill)


class Bird:
    """One bird, its plumage, build and pose. Lengths are in bird units, angles in radians."""

    def __init__(self, rng: Random) -> None:
        self.colours = _random_plumage(rng)
        self.posture = math.radians(rng.uniform(18, 50))  # angle of the body above the horizon
        self.plumpness = rng.uniform(0.9, 1.2)  # factor of the belly's depth
        self.head_radius = rng.uniform(0.38, 0.45)
        self.head_turn = rng.uniform(0.72, 1.0)  # share of bill and face seen, 1 for a pure profile
        self.looks_back = rng.random() < 0.14  # over the shoulder
        self.head_tilt = math.radians(rng.uniform(-14, 18))  # how far the bill points up
        self.bill_length, self.bill_height = rng.uniform(0.24, 0.42), rng.uniform(0.17, 0.27)
        self.tail_length = rng.uniform(0.72, 1.1)
        self.tail_angle = math.radians(rng.uniform(-6, 36))  # against the body's axis
        self.tail_spread = rng.uniform(0.04, 0.13)
        self.leg = rng.uniform(0.16, 0.28)  # length of its visible part
        self.streaks = max(0.0, rng.uniform(-0.6, 1.0))  # how strong they are on the breast, to 1
        self.brow = max(0.0, rng.uniform(-0.5, 0.6))  # how pale the stripe above the eye is, to 1
        self.head_centre = self.body(0.86, 0.36 if self.looks_back else 0.3)
        self.eye = self.head(0.34 * self.head_turn, 0.12)
        self.bill_tip = self.head(0.9 + self.bill_length * self.head_turn / self.head_radius, -0.1)
        self.hips = (self.body(-0.16, -0.5) + at(0.12, 0), self.body(-0.22, -0.5))  # far, near
        self.ground = float(self.outline[:, 1].max()) + self.leg
        self.feet = (at(0.2, self.ground), at(-0.04, self.ground))  # on a level perch

    def body(self, s: float, t: float) -> Points:
        """Return the place s along and t across the body's axis."""
        cos, sin = math.cos(self.posture), math.sin(self.posture)
        return at(s * cos - t * sin, -s * sin - t * cos)

    def head(self, forward: float, up: float) -> Points:
        """Return a place on the head, in head radii from its centre."""
        angle = abs(self.head_tilt) if self.looks_back else self.head_tilt
        x = forward * math.cos(angle) - up * math.sin(angle)
        y = forward * math.sin(angle) + up * math.cos(angle)
        return self.head_centre + self.head_radius * at(-x if self.looks_back else x, -y)

    def body_curve(self, *knots: tuple[float, float], depth: float = 1) -> Points:
        return smooth([self.body(s, t * depth) for s, t in knots])

    def head_curve(self, *knots: tuple[float, float], closed: bool = True) -> Points:
        return smooth([self.head(forward, up) for forward, up in knots], closed=closed)

    @cached_property
    def outline(self) -> Points:
        """Outline of body and head in one curve."""
        middle = math.atan2(0.3, 0.86)
        arc = [math.radians(degrees) + middle for degrees in (-92, -55, -18, 18, 52, 84, 112)]
        r, m = self.head_radius, self.plumpness
        head = [(0.86 + r * math.cos(a), 0.3 + r * math.sin(a)) for a in arc]
        rest = [(0.32, 0.53), (-0.2, 0.48), (-0.68, 0.29), (-0.98, 0.13), (-1.0, -0.08),
                (-0.74, -0.32 * m), (-0.36, -0.57 * m), (0.1, -0.69 * m), (0.5, -0.62 * m),
                (0.84, -0.34 * m)]  # fmt: skip
        return self.body_curve(*head, *rest)

    @cached_property
    def tail_feathers(self) -> list[Ends]:
        """Root and tip of each tail feather, from the far side to the near one."""
        root, feathers = self.body(-0.72, 0.06), []
        for offset in (-1.0, 1.0, -0.5, 0.5, 0.0):
            turn = math.pi + self.posture - self.tail_angle + offset * self.tail_spread
            reach = self.tail_length * (1 - 0.05 * (1 - abs(offset))) + 0.25
            tip = root + reach * at(math.cos(turn), -math.sin(turn))
            feathers.append((root + 0.05 * offset * self.body(0, -1), tip))
        return feathers

    @cached_property
    def extent(self) -> tuple[Points, Points]:
        """Smallest and largest coordinates of the bird without its perch."""
        ends = [tip for _, tip in self.tail_feathers] + [foot + at(0, 0.12) for foot in self.feet]
        every = np.stack([*self.outline, *ends, self.bill_tip, self.body(-1.32, 0.08)])
        return every.min(axis=0) - 0.03, every.max(axis=0) + 0.03

    def parts(self, faces_right: bool) -> dict[str, Points]:
        """Return CUB's parts that can be seen, by CUB's names."""
        near, far = ("right", "left") if faces_right else ("left", "right")
        root, tip = self.tail_feathers[-1]
        return {
            "back": self.body(-0.1, 0.4),
            "beak": (self.head(0.9, -0.04) + self.bill_tip) / 2,
            "belly": self.body(-0.1, -0.5 * self.plumpness),
            "breast": self.body(0.6, -0.36 * self.plumpness),
            "crown": self.head(-0.05, 0.8),
            "forehead": self.head(0.7, 0.5),
            f"{far if self.looks_back else near} eye": self.eye,
            f"{far} leg": (self.hips[0] + 2 * self.feet[0]) / 3,
            f"{near} leg": (self.hips[1] + 2 * self.feet[1]) / 3,
            f"{near} wing": self.body(0.0, 0.0),
            "nape": self.body(0.56, 0.5),
            "tail": root * 0.25 + tip * 0.75,
            "throat": self.head(0.45, -0.75),
        }


def paint_bird(
    canvas: Image.Image, frame: Frame, bird: Bird, light: Light, marks: Marks, strokes: Points
) -> None:
    """Paint tail, body, wing and head on a layer, light the layer, and lay it on the canvas."""
    corners = frame.pixels(np.stack(bird.extent))
    left, top = (int(v) - 3 for v in corners.min(axis=0))
    right, low = (int(v) + 4 for v in corners.max(axis=0))
    size = (right - left, low - top)
    here = frame.cropped(left, top)
    zoom = 72 / max(size)  # soft colours and shading are painted small
    small = frame.cropped(left, top, zoom)
    small_size = (max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom)))
    layer, mask, body = Image.new("RGB", size), Image.new("L", size), Image.new("L", size)
    brush = Brush(layer, here, mask)
    _paint_tail(brush, bird, marks.get("tail_band"))
    Brush(body, here).fill(bird.outline, 255)
    soft = _soft_plumage(bird, small, small_size)
    layer.paste(soft.resize(size, Image.Resampling.BILINEAR), body)
    mask.paste(255, body)
    _paint_plumes(Brush(layer, here), bird, strokes)
    _paint_wing(brush, bird, marks.get("wing_bar"))
    shades = _shading(bird, light, small, small_size)
    layer = ImageChops.hard_light(layer, shades.resize(size, Image.Resampling.BILINEAR))
    brush = Brush(layer, here, mask)
    if "crown" in marks:
        _paint_crown(brush, bird, marks["crown"])
    if "eye_ring" in marks:
        brush.dot(bird.eye, 0.142, darker(marks["eye_ring"], 0.86))
        brush.dot(bird.eye - at(0, 0.008), 0.133, marks["eye_ring"])
    _paint_bill(brush, bird, marks.get("bill"))
    _paint_eye(brush, bird, light)
    canvas.paste(layer, (left, top), mask)


def _soft_plumage(bird: Bird, frame: Frame, size: tuple[int, int]) -> Image.Image:
    """Return the body's colours as blurred patches, without light."""
    (back, belly, breast, *_), radius = bird.colours, bird.head_radius
    image = Image.new("RGB", size, back)
    brush = Brush(image, frame)
    brush.fill(bird.body_curve(*_BELLY, depth=bird.plumpness), belly)
    brush.fill(bird.body_curve(*_BREAST, depth=bird.plumpness), breast)
    brush.dot(bird.head_centre, radius * 0.98, back)
    brush.dot(bird.head(0.25, -0.25), radius * 0.6, bird.colours.face)
    brush.dot(bird.head(0.55, -0.85), radius * 0.32, mix(breast, belly, 0.5))
    brow = bird.head_curve((0.75, 0.3), (0.1, 0.5), (-0.6, 0.3), (0.1, 0.36))
    brush.fill(brow, mix(back, belly, bird.brow))
    lore = bird.head_curve((0.95, 0.06), (0.3, 0.22), (-0.25, 0.0), (0.3, 0.0))
    brush.fill(lore, darker(back, 0.6))
    cap = bird.head_curve((0.8, 0.6), (0.1, 0.72), (-0.7, 0.5), (-0.9, 1.2), (0.7, 1.2))
    brush.fill(cap, darker(back, 0.86))
    brush.fill(bird.body_curve(*((s, t - 0.05) for s, t in _WING)), darker(belly, 0.7))
    return blurred(image, 0.085 * frame.scale)


def _shading(bird: Bird, light: Light, frame: Frame, size: tuple[int, int]) -> Image.Image:
    """Return the light on the bird as a hard-light layer: below grey darkens, above lights."""
    height = np.zeros((size[1], size[0]))  # of body, head and wing, bulged by blurred outlines
    for points, blur, weight in (
        (bird.outline, 0.30, 1.0),
        (bird.outline, 0.07, 0.1),
        (bird.head_centre + bird.head_radius * _CIRCLE, 0.16, 0.3),
        (bird.body_curve(*_WING), 0.10, 0.16),
    ):
        mask = Image.new("L", size)
        Brush(mask, frame).fill(points, 255)
        height += weight * np.asarray(blurred(mask, blur * frame.scale), dtype=np.float64) / 255
    slope_y, slope_x = np.gradient(height * frame.scale)
    lit = -(slope_x * light.toward[0] + slope_y * light.toward[1])
    value = np.clip(0.51 + 0.16 * light.strength * lit, 0.3, 0.66)[..., None]
    tint = np.where(value < 0.5, (-0.03, -0.03, 0.09), (0.1, 0.02, -0.12)) * abs(value - 0.5)
    return Image.fromarray(((value + tint).clip(0, 1) * 255).astype(np.uint8))


def _paint_tail(brush: Brush, bird: Bird, band: Colour | None) -> None:
    """Paint the tail feathers, with a band across them if it has a colour."""
    stripe = None if band is None else (0.74, 0.85, band)
    for index, feather in enumerate(bird.tail_feathers):
        vane = darker(bird.colours.wing, 0.72 + 0.07 * index)
        brush.feather(feather, 0.24, vane, mix(vane, bird.colours.belly, 0.3), stripe)


def _paint_plumes(brush: Brush, bird: Bird, strokes: Points) -> None:
    """Paint short plumes over the body, and streaks on the breast of a streaked bird."""
    back, belly, breast, wing, *_ = bird.colours
    pale, dark = mix(back, (250, 240, 220), 0.16), mix(back, (30, 26, 30), 0.16)
    streak, across = darker(wing, 0.8), 0.02 * bird.body(0, 1)
    for s, t, tone, long in strokes.tolist():
        behind = (0.08 + 0.07 * long) * bird.body(1, 0.15)
        if tone < 0.4:
            place = bird.body(-0.8 + 1.25 * s, 0.44 - 0.25 * t - 0.15 * abs(s - 0.5))
            brush.stroke([place, place - behind], pale if tone < 0.2 else dark, 0.022)
        else:
            depth = (-0.32 - 0.25 * t * (1 - abs(s - 0.5))) * bird.plumpness
            place = bird.body(-0.5 + 1.25 * s, depth)
            base = belly if s < 0.6 else mix(belly, breast, 2.4 * s - 1.4)
            colour = mix(base, streak, 0.08 + 0.5 * bird.streaks * tone)
            brush.fill([place, place - behind + across, place - behind - across], colour)


def _paint_wing(brush: Brush, bird: Bird, bar: Colour | None) -> None:
    """Paint the folded wing, longest feathers first, with a bar if it has a colour."""
    wing, back = bird.colours.wing, bird.colours.back
    brush.fill(bird.body_curve(*_WING), darker(wing, 0.8))
    tips = None if bar is None else (0.72, 1.0, bar)
    # Count; root and tip of the lowest feather and of the highest one; width, tone, band.
    for count, lowest, highest, width, tone, band in (
        (5, ((-0.1, -0.1), (-0.72, -0.16)), ((-0.1, 0.1), (-1.3, 0.08)), 0.15, 0.72, None),
        (5, ((0.3, -0.2), (-0.42, -0.3)), ((0.25, 0.2), (-0.86, 0.24)), 0.19, 0.9, None),
        (6, ((0.5, -0.2), (0.02, -0.33)), ((0.4, 0.24), (-0.2, 0.33)), 0.17, 1.05, tips),
        (5, ((0.64, -0.12), (0.3, -0.28)), ((0.5, 0.24), (0.12, 0.36)), 0.18, 1.16, None),
    ):
        for i in range(count):
            share = i / (count - 1)
            places = np.add(lowest, share * np.subtract(highest, lowest))
            vane = mix(darker(wing, tone), back, 0.12 * share)
            striped = band if 0 < i < count - 1 else None
            feather = tuple(bird.body(s, t) for s, t in places)
            brush.feather(feather, width, vane, mix(vane, bird.colours.belly, 0.34), striped)
    shoulder = ((0.72, 0.0), (0.56, 0.34), (0.22, 0.42), (0.36, 0.1), (0.46, -0.2))
    brush.fill(bird.body_curve(*shoulder), mix(wing, back, 0.75))


def _paint_crown(brush: Brush, bird: Bird, colour: Colour) -> None:
    """Paint the crown patch with a few plumes combed to the nape."""
    brush.fill(bird.head_curve(*_CROWN), colour)
    for step in range(7):
        front, up = 0.52 - 0.1 * step, 0.78 + 0.04 * (step % 3)
        plume = [bird.head(front, up), bird.head(front - 0.13, up - 0.02)]
        brush.stroke(plume, darker(colour, 0.82), 0.018)
    sheen = bird.head_curve((0.4, 0.82), (0.05, 0.91), (-0.3, 0.85), closed=False)
    brush.stroke(sheen, mix(colour, (255, 250, 236), 0.3), 0.026)


def _paint_bill(brush: Brush, bird: Bird, colour: Colour | None) -> None:
    """Paint the two mandibles, grey horn unless they have a colour."""
    colour = bird.colours.bill if colour is None else colour
    tip, half = bird.bill_tip, bird.bill_height / 2 / bird.head_radius
    gape, high, low = bird.head(0.78, -0.08), bird.head(0.84, half), bird.head(0.78, -0.1 - half)
    ridge = (high + tip) / 2 + (bird.head(0, 0.25 * half) - bird.head_centre)
    keel = (low + tip) / 2 - (bird.head(0, 0.2 * half) - bird.head_centre)
    brush.fill([gape, tip * 0.92 + gape * 0.08, keel, low], darker(colour, 0.74))
    brush.fill([gape, high, ridge, tip], colour)
    brush.stroke([high, ridge], mix(colour, (255, 255, 255), 0.4), 0.022)
    brush.stroke([gape, tip], darker(colour, 0.45), 0.014)


def _paint_eye(brush: Brush, bird: Bird, light: Light) -> None:
    """Paint the dark eye with its glint towards the light."""
    side = brush.frame.mirror
    brush.dot(bird.eye, 0.1, (34, 26, 26))
    brush.dot(bird.eye + at(0.01 * side, 0.03), 0.06, (88, 62, 46))
    brush.dot(bird.eye, 0.066, (16, 12, 14))
    glint = at(light.toward[0] * side, light.toward[1]) * 0.045
    brush.dot(bird.eye + glint, 0.03, (255, 255, 255))
