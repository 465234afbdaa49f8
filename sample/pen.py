"""A pen that draws soft, flat shapes in the coordinates of whatever is being drawn.

In every system of coordinates here x grows in the direction in which a figure looks and y upwards,
so a figure is written down once and then placed, scaled, tilted or turned round by `Pen.at`.
"""

import math

from PIL import Image, ImageColor, ImageDraw, ImageOps

WIDTH, HEIGHT = 400, 300  # pixels of a finished picture
FRAME = WIDTH / HEIGHT  # how wide a picture is when its height is the unit
OVERSAMPLING = 2  # drawn so many times larger and then averaged: smooth edges

Point = tuple[float, float]
Colour = str | tuple[int, ...]

_CIRCLE = [(math.cos(math.tau * step / 28), math.sin(math.tau * step / 28)) for step in range(28)]


def tint(colour: Colour, amount: float) -> Colour:
    """The colour moved towards white (amount in 0..1) or towards black (amount in -1..0)."""
    goal = 255 if amount > 0 else 0
    return tuple(round(part + abs(amount) * (goal - part)) for part in _rgb(colour))


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """The colour with a share (0..1) of the other one."""
    pairs = zip(_rgb(colour), _rgb(other), strict=True)
    return tuple(round(one + share * (two - one)) for one, two in pairs)


def glassy(colour: Colour, opacity: float) -> Colour:
    """The colour as a film that lets through what lies below it (opacity in 0..1)."""
    return (*_rgb(colour), round(255 * opacity))


class Pen:
    """Draws on `image` (RGB, oversampled) with its own origin, unit, direction and tilt.

    A new pen has its origin at the lower left corner and the picture's height as its unit, so that
    the picture is `FRAME` wide and 1 high.
    """

    def __init__(self, image: Image.Image):
        self.image = image
        self._draw = ImageDraw.Draw(image, "RGBA")  # "RGBA" lets glassy colours blend
        self._x, self._y, self._unit = 0.0, float(image.height), float(image.height)
        self._facing, self._angle = 1, 0.0

    def at(self, x: float, y: float, size: float = 1, facing: int = 1, angle: float = 0) -> "Pen":
        """A pen on the same picture with its origin at (x, y) and `size` as its unit.

        `facing` -1 mirrors the figure; `angle` in degrees lifts its front.
        """
        pen = Pen.__new__(Pen)
        pen.image, pen._draw = self.image, self._draw
        [(pen._x, pen._y)] = self._place([(x, y)])
        pen._unit = self._unit * size
        pen._facing = self._facing * facing
        pen._angle = self._angle + math.radians(angle)
        return pen

    def polygon(self, points: list[Point], colour: Colour) -> None:
        self._draw.polygon(self._place(points), fill=colour)

    def blob(self, points: list[Point], colour: Colour) -> None:
        """A closed smooth shape through the points (a Catmull-Rom spline)."""
        self.polygon(_smooth(points, closed=True), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        [(x, y)] = self._place([(x, y)])
        radius *= self._unit
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        [(x, y)] = self._place([(x, y)])
        radius *= self._unit
        box = (x - radius, y - radius, x + radius, y + radius)
        self._draw.ellipse(box, outline=colour, width=max(1, round(width * self._unit)))

    def oval(self, x: float, y: float, across: float, up: float, colour: Colour) -> None:
        """An ellipse with the half axes `across` and `up`."""
        self.polygon([(x + across * cos, y + up * sin) for cos, sin in _CIRCLE], colour)

    def stroke(self, points: list[Point], width: float, colour: Colour, smooth=False) -> None:
        """A line of even width with round ends and joints, which would show in a glassy colour."""
        points = self._place(_smooth(points, closed=False) if smooth else points)
        width = max(1, round(width * self._unit))
        self._draw.line(points, fill=colour, width=width, joint="curve")
        if width > 3:
            for x, y in (points[0], points[-1]):
                self._draw.ellipse(
                    (x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour
                )

    def limb(self, joints: list[Point], radii: list[float], colour: Colour) -> None:
        """A limb that tapers from joint to joint, with a radius at each."""
        for (x, y), radius in zip(joints, radii, strict=True):
            self.disc(x, y, radius, colour)
        for index in range(len(joints) - 1):
            (x1, y1), (x2, y2) = joints[index : index + 2]
            r1, r2 = radii[index : index + 2]
            length = math.hypot(x2 - x1, y2 - y1) or 1
            across, up = (y1 - y2) / length, (x2 - x1) / length
            corners = [
                (x1 + across * r1, y1 + up * r1),
                (x2 + across * r2, y2 + up * r2),
                (x2 - across * r2, y2 - up * r2),
                (x1 - across * r1, y1 - up * r1),
            ]
            self.polygon(corners, colour)

    def shaded(self, points: list[Point], top: Colour, bottom: Colour, middle=None) -> None:
        """A polygon whose colour runs from `top` to `bottom`, by way of `middle` if given."""
        corners = self._place(points)
        left, upper = (math.floor(min(axis)) for axis in zip(*corners, strict=True))
        right, lower = (math.ceil(max(axis)) for axis in zip(*corners, strict=True))
        left, right = max(left, 0), min(right, self.image.width)
        size = (max(right - left, 1), max(lower - upper, 1))
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - left, y - upper) for x, y in corners], fill=255)
        ramp = Image.linear_gradient("L").resize((1, size[1]))
        colours = ImageOps.colorize(
            ramp, _rgb(top), _rgb(bottom), mid=None if middle is None else _rgb(middle)
        )
        self.image.paste(colours.resize(size), (left, upper), mask)

    def _place(self, points: list[Point]) -> list[Point]:
        across, up = math.cos(self._angle) * self._unit, math.sin(self._angle) * self._unit
        return [
            (self._x + self._facing * (x * across - y * up), self._y - (x * up + y * across))
            for x, y in points
        ]


def _smooth(points: list[Point], closed: bool) -> list[Point]:
    count = len(points)
    segments = count if closed else count - 1

    def point(index: int) -> Point:
        return points[index % count] if closed else points[min(max(index, 0), count - 1)]

    curve = []
    for index in range(segments):
        before, start, end, after = (point(index + step) for step in (-1, 0, 1, 2))
        for step in range(8):
            t = step / 8
            weights = (
                (-t + 2 * t**2 - t**3) / 2,
                (2 - 5 * t**2 + 3 * t**3) / 2,
                (t + 4 * t**2 - 3 * t**3) / 2,
                (t**3 - t**2) / 2,
            )
            near = (before, start, end, after)
            curve.append(
                tuple(
                    sum(w * p[axis] for w, p in zip(weights, near, strict=True)) for axis in (0, 1)
                )
            )
    return curve if closed else [*curve, points[-1]]


def _rgb(colour: Colour) -> tuple[int, int, int]:
    return ImageColor.getrgb(colour)[:3] if isinstance(colour, str) else colour[:3]
