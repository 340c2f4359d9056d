"""Shape, pose and plumage of one drawn bird, in its own coordinates.

The bird looks to the right; x is forward, y is down, and half a body length is 1. Body places are
given along the body's axis (s, towards the head) and across it (t, towards the back), so that the
whole body follows when the axis is tilted.
"""

import math
import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drawn_birds.brushes import Colour, Points, at, darker, mix, smooth

# Brown, warm grey, olive, blue-grey, rust, teal, slate, sand, moss, plum brown.
_BACKS: tuple[Colour, ...] = (
    (126, 94, 66), (132, 124, 116), (116, 114, 70), (94, 116, 140), (150, 94, 66), (70, 114, 116),
    (84, 88, 104), (162, 134, 100), (94, 120, 82), (114, 86, 92),
)  # fmt: skip
# Cream, pale grey, buff, pinkish; russet, ochre, grey, rose.
_BELLIES: tuple[Colour, ...] = ((232, 220, 196), (222, 220, 216), (226, 202, 172), (224, 204, 196))
_BREASTS: tuple[Colour, ...] = ((186, 128, 92), (196, 164, 120), (160, 156, 150), (204, 170, 150))
_LEGS: tuple[Colour, ...] = ((92, 76, 68), (120, 92, 80), (74, 72, 76))


@dataclass(frozen=True)
class Plumage:
    """Colours of one bird, all of them muted; none of them tells the class."""

    back: Colour
    belly: Colour
    breast: Colour
    wing: Colour
    face: Colour
    legs: Colour
    bill: Colour


@dataclass(frozen=True)
class Bird:
    """One bird: its build and its pose."""

    posture: float
    plumpness: float
    head_radius: float
    head_turn: float
    looks_back: bool
    head_tilt: float
    bill: tuple[float, float]
    tail: tuple[float, float, float]
    leg: float
    streaks: float
    brow: float
    colours: Plumage

    def body(self, s: float, t: float) -> Points:
        """Return the place s along and t across the body's axis."""
        cos, sin = math.cos(self.posture), math.sin(self.posture)
        return at(s * cos - t * sin, -s * sin - t * cos)

    def head(self, forward: float, up: float) -> Points:
        """Return a place on the head, in head radii from its centre."""
        angle = abs(self.head_tilt) if self.looks_back else self.head_tilt
        x = forward * math.cos(angle) - up * math.sin(angle)
        y = forward * math.sin(angle) + up * math.cos(angle)
        side = -1 if self.looks_back else 1
        return self.head_centre + self.head_radius * at(side * x, -y)

    @cached_property
    def head_centre(self) -> Points:
        return self.body(0.86, 0.36 if self.looks_back else 0.3)

    @cached_property
    def outline(self) -> Points:
        middle = math.atan2(0.3, 0.86)
        arc = [math.radians(degrees) + middle for degrees in (-92, -55, -18, 18, 52, 84, 112)]
        r, m = self.head_radius, self.plumpness
        head = [(0.86 + r * math.cos(a), 0.3 + r * math.sin(a)) for a in arc]
        rest = [
            (0.32, 0.53), (-0.2, 0.48), (-0.68, 0.29), (-0.98, 0.13), (-1.0, -0.08),
            (-0.74, -0.32 * m), (-0.36, -0.57 * m), (0.1, -0.69 * m), (0.5, -0.62 * m),
            (0.84, -0.34 * m),
        ]  # fmt: skip
        return smooth([self.body(s, t) for s, t in head + rest])

    @cached_property
    def eye(self) -> Points:
        return self.head(0.34 * self.head_turn, 0.12)

    @cached_property
    def bill_tip(self) -> Points:
        return self.head(0.9 + self.bill[0] * self.head_turn / self.head_radius, -0.1)

    @cached_property
    def tail_feathers(self) -> list[tuple[Points, Points]]:
        """Root and tip of each tail feather, from the far side to the near one."""
        length, angle, spread = self.tail
        root = self.body(-0.72, 0.06)
        feathers = []
        for offset in (-1.0, 1.0, -0.5, 0.5, 0.0):
            turn = math.pi + self.posture - angle + offset * spread
            reach = length * (1 - 0.05 * (1 - abs(offset))) + 0.25
            tip = root + reach * at(math.cos(turn), -math.sin(turn))
            feathers.append((root + 0.05 * offset * self.body(0, -1), tip))
        return feathers

    @cached_property
    def hips(self) -> tuple[Points, Points]:
        """Where the far and the near leg leave the belly."""
        return self.body(-0.16, -0.5) + at(0.12, 0), self.body(-0.22, -0.5)

    @cached_property
    def feet(self) -> tuple[Points, Points]:
        """Where the far and the near foot stand on a level perch."""
        ground = float(self.outline[:, 1].max()) + self.leg
        return at(0.2, ground), at(-0.04, ground)

    @cached_property
    def extent(self) -> tuple[Points, Points]:
        """Smallest and largest coordinates of the bird without its perch."""
        tips = np.stack([tip for _, tip in self.tail_feathers])
        feet = np.stack(self.feet) + at(0, 0.12)
        wing = self.body(-1.32, 0.08)
        every = np.concatenate((self.outline, tips, feet, self.bill_tip[None], wing[None]))
        return every.min(axis=0) - 0.03, every.max(axis=0) + 0.03

    def parts(self, faces_right: bool) -> dict[str, Points]:
        """Return CUB's parts that can be seen, by CUB's names."""
        near, far = ("right", "left") if faces_right else ("left", "right")
        seen_eye = far if self.looks_back else near
        return {
            "back": self.body(-0.1, 0.4),
            "beak": (self.head(0.9, -0.04) + self.bill_tip) / 2,
            "belly": self.body(-0.1, -0.5 * self.plumpness),
            "breast": self.body(0.6, -0.36 * self.plumpness),
            "crown": self.head(-0.05, 0.8),
            "forehead": self.head(0.7, 0.5),
            f"{seen_eye} eye": self.eye,
            f"{far} leg": (self.hips[0] + 2 * self.feet[0]) / 3,
            f"{near} leg": (self.hips[1] + 2 * self.feet[1]) / 3,
            f"{near} wing": self.body(0.0, 0.0),
            "nape": self.body(0.56, 0.5),
            "tail": self.tail_feathers[-1][0] * 0.25 + self.tail_feathers[-1][1] * 0.75,
            "throat": self.head(0.45, -0.75),
        }


def _jitter(colour: Colour, rng: random.Random) -> Colour:
    """Return the colour a little lighter or darker, and each channel a little off."""
    light = rng.uniform(0.88, 1.12)
    red, green, blue = (min(255, max(0, round(c * light + rng.uniform(-8, 8)))) for c in colour)
    return red, green, blue


def random_bird(rng: random.Random) -> Bird:
    """Draw a bird's build, pose and plumage."""
    back = _jitter(rng.choice(_BACKS), rng)
    belly = mix(_jitter(rng.choice(_BELLIES), rng), back, rng.uniform(0.0, 0.2))
    breast = mix(belly, _jitter(rng.choice(_BREASTS), rng), rng.uniform(0.0, 1.0))
    colours = Plumage(
        back=back,
        belly=belly,
        breast=breast,
        wing=darker(mix(back, (92, 84, 80), rng.uniform(0.0, 0.6)), rng.uniform(0.66, 0.84)),
        face=mix(back, rng.choice((belly, breast, darker(back, 0.6))), rng.uniform(0.1, 0.55)),
        legs=rng.choice(_LEGS),
        bill=darker((102, 98, 96), rng.uniform(0.75, 1.2)),
    )
    return Bird(
        posture=math.radians(rng.uniform(18, 50)),
        plumpness=rng.uniform(0.9, 1.2),
        head_radius=rng.uniform(0.38, 0.45),
        head_turn=rng.uniform(0.72, 1.0),
        looks_back=rng.random() < 0.14,
        head_tilt=math.radians(rng.uniform(-14, 18)),
        bill=(rng.uniform(0.24, 0.42), rng.uniform(0.17, 0.27)),
        tail=(rng.uniform(0.72, 1.1), math.radians(rng.uniform(-6, 36)), rng.uniform(0.04, 0.13)),
        leg=rng.uniform(0.16, 0.28),
        streaks=max(0.0, rng.uniform(-0.6, 1.0)),
        brow=max(0.0, rng.uniform(-0.5, 0.6)),
        colours=colours,
    )
