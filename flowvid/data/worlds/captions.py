"""Captions of synthetic clips: structure first, words second.

A `Caption` says for every object what it is, how it moves, where to, how fast, and what it bounces off. `str` makes it
a sentence and `parse` reads the sentence back, from the same templates: parse(str(caption)) == caption for every
caption. When something bounced stands in the structure but not in the sentence, so equality passes over it.

The words, for a canvas whose side is one width and whose y axis points down:

- direction: that of the velocity at the start, as one of eight sectors of 45 degrees. "up" is towards smaller y.
- speed: "slowly" below 0.18 widths per second, "quickly" from 0.23 on, between them "at a medium pace", which are
  thirds of the range of the default `World`. It is that of the start in a flight and the mean along a curved path. A
  thing that only turns is slow below 0.23 turns per second and quick from 0.32 on.
- sense: as seen on the screen.
- events: what is bounced off, in order; where the way out is not the mirror image of the way in (a branching world, a
  collision), also the direction of the way out.
- place: ninths of the canvas; said of a moment, not of a span.

`flowvid.data.worlds.describe` writes captions of scenes.
"""

__all__ = [
    "CORNERS",
    "DIRECTIONS",
    "MOTIONS",
    "PLACES",
    "SENSES",
    "SPEEDS",
    "SPEED_BOUNDS",
    "SUBJECTS",
    "SURFACES",
    "TURN_BOUNDS",
    "WALLS",
    "Caption",
    "Event",
    "Part",
    "parse",
    "split_words",
    "vocabulary",
]

import math
import re
from dataclasses import dataclass, field

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SUBJECTS = (*DIGITS, "ball", "bob")
DIRECTIONS = ("right", "down and right", "down", "down and left", "left", "up and left", "up", "up and right")
SPEEDS = ("slowly", "at a medium pace", "quickly")
SENSES = ("clockwise", "anticlockwise")
WALLS = ("left wall", "right wall", "top wall", "bottom wall")
CORNERS = ("top left corner", "top right corner", "bottom left corner", "bottom right corner")
SURFACES = (*WALLS, *CORNERS, "another")
PLACES = (
    "at the top left",
    "at the top",
    "at the top right",
    "at the left",
    "in the middle",
    "at the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)

SPEED_BOUNDS = (0.18, 0.23)
"""Canvas widths per second from which on a motion is no longer slow, and from which on it is quick."""

TURN_BOUNDS = (0.23, 0.32)
"""Turns per second from which on a spin is no longer slow, and from which on it is quick."""

_TEMPLATES = {
    "rest": "rests",
    "flight": "moves {direction}{turning}, {speed}",
    "spin": "turns {sense}, {speed}",
    "oscillation": "goes back and forth, first {direction}, {speed}",
    "orbit": "circles {sense}, first {direction}, {speed}",
    "pendulum": "swings, first {direction}, {speed}",
}
MOTIONS = tuple(_TEMPLATES)

_FIRST, _NEXT, _WHILE = ", and bounces off ", ", then off ", ", while "
_WAYS = {"rest": ", coming to rest"} | {way: f", going {way}" for way in DIRECTIONS}
_SAID = {surface: surface if surface == "another" else f"the {surface}" for surface in SURFACES}
_LONGEST = 1e9


@dataclass(frozen=True, slots=True)
class Event:
    """A bounce.

    Arguments:
        surface: What is bounced off: a wall, a corner, or "another" object.
        then: Direction of the way out, or "rest"; None where it is the mirror image of the way in.
        time: Seconds; None where it is not known. It is neither said nor compared.

    Raises:
        ValueError: A word is none of those there are.
    """

    surface: str
    then: str | None = None
    time: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _check_word("surface", self.surface, SURFACES)
        if self.then is not None:
            _check_word("way out", self.then, tuple(_WAYS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one object does.

    Arguments:
        subject: A digit in words, "ball" or "bob".
        motion: rest, flight, spin, oscillation, orbit or pendulum.
        direction: Where to at the start; None at rest and in a spin.
        sense: Which way it circles or turns; a flight may have one, a spin and an orbit need one, others have none.
        speed: None at rest.
        events: What it bounces off, in order.
        place: Where it is, in a caption of a moment.

    Raises:
        ValueError: A word is none of those there are, is missing, or does not go with the motion.
    """

    subject: str
    motion: str
    direction: str | None = None
    sense: str | None = None
    speed: str | None = None
    events: tuple[Event, ...] = ()
    place: str | None = None

    def __post_init__(self) -> None:
        _check_word("subject", self.subject, SUBJECTS)
        _check_word("motion", self.motion, MOTIONS)
        moves = self.motion not in ("rest", "spin")
        turns = None if self.motion == "flight" else self.motion in ("spin", "orbit")
        for name, words, wanted in (
            ("direction", DIRECTIONS, moves),
            ("sense", SENSES, turns),
            ("speed", SPEEDS, self.motion != "rest"),
            ("place", PLACES, None),
        ):
            word = getattr(self, name)
            if wanted is not None and wanted != (word is not None):
                raise ValueError(f"The motion {self.motion} {'needs a' if wanted else 'has no'} {name}; got {word!r}.")
            if word is not None:
                _check_word(name, word, words)

    def __str__(self) -> str:
        turning = f", turning {self.sense}" if self.sense else ""
        said = _TEMPLATES[self.motion].format(
            direction=self.direction, sense=self.sense, speed=self.speed, turning=turning
        )
        events = [
            (_NEXT if number else _FIRST) + _SAID[event.surface] + (_WAYS[event.then] if event.then else "")
            for number, event in enumerate(self.events)
        ]
        return f"the {self.subject}{' ' + self.place if self.place else ''} {said}{''.join(events)}"


@dataclass(frozen=True, slots=True)
class Caption:
    """What all objects do, in their order.

    Arguments:
        parts: One for each object.
        time: Seconds of the moment it speaks of, held in whole milliseconds; None for a span.

    Raises:
        ValueError: There are no parts, or the time is not finite or beyond a thousand million seconds.
    """

    parts: tuple[Part, ...]
    time: float | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("A caption needs at least one part; got none.")
        if self.time is not None:
            if not (math.isfinite(self.time) and abs(self.time) <= _LONGEST):
                raise ValueError(f"A caption's time is finite and at most {_LONGEST:g} s; got {self.time}.")
            object.__setattr__(self, "time", round(float(self.time), 3) + 0.0)

    def __str__(self) -> str:
        said = _WHILE.join(str(part) for part in self.parts)
        return said if self.time is None else f"at {f'{self.time:.3f}'.rstrip('0').rstrip('.')} s {said}"


def parse(text: str) -> Caption:
    """The caption that a sentence says.

    Raises:
        ValueError: The sentence is not one that `Caption` makes.
    """
    found = re.fullmatch(r"(?:at (-?\d+(?:\.\d+)?) s )?(.*)", text)
    if found is None:
        raise ValueError(f"A caption is one line of text; got {text!r}.")
    time, said = found.groups()
    return Caption(tuple(_part(part) for part in said.split(_WHILE)), None if time is None else float(time))


def split_words(text: str) -> list[str]:
    """Words, marks and single numerals of a text, in order.

    Raises:
        ValueError: The text holds something else.
    """
    rest = re.sub(r"[a-z]+|[0-9]|[.,-]|\s", "", text)
    if rest:
        raise ValueError(f"Captions hold lower-case words, numerals, commas, points and minus signs; got {rest[0]!r}.")
    return re.findall(r"[a-z]+|[0-9]|[.,-]", text)


def vocabulary() -> tuple[str, ...]:
    """All that `split_words` finds in captions, in a fixed order."""
    said = [*SUBJECTS, *DIRECTIONS, *SPEEDS, *SENSES, *_SAID.values(), *PLACES, *_WAYS.values(), _FIRST, _NEXT, _WHILE]
    said += [re.sub(r"\{\w+\}", " ", template) for template in _TEMPLATES.values()]
    return tuple(sorted({word for text in (*said, "at s the turning 0123456789.-") for word in split_words(text)}))


def _one_of(words: tuple[str, ...], name: str) -> str:
    return f"(?P<{name}>{'|'.join(sorted(words, key=len, reverse=True))})"


def _pattern(template: str) -> re.Pattern[str]:
    """What a part looks like that the template made; events are left for another look."""
    said = template.replace("{turning}", f"(?:, turning {_one_of(SENSES, 'sense')})?")
    for name, words in (("direction", DIRECTIONS), ("sense", SENSES), ("speed", SPEEDS)):
        said = said.replace(f"{{{name}}}", _one_of(words, name))
    place = _one_of(PLACES, "place")
    return re.compile(f"the {_one_of(SUBJECTS, 'subject')}(?: {place})? {said}(?P<events>(?:{_FIRST}.*)?)")


_PATTERNS = {motion: _pattern(template) for motion, template in _TEMPLATES.items()}
_EVENT = re.compile(
    f"(?P<link>{_FIRST}|{_NEXT}){_one_of(tuple(_SAID.values()), 'surface')}{_one_of(tuple(_WAYS.values()), 'way')}?"
)


def _part(text: str) -> Part:
    for motion, pattern in _PATTERNS.items():
        if found := pattern.fullmatch(text):
            words = found.groupdict()
            return Part(
                subject=found["subject"],
                motion=motion,
                direction=words.get("direction"),
                sense=words.get("sense"),
                speed=words.get("speed"),
                events=_events(found["events"], text),
                place=words["place"],
            )
    raise ValueError(f"No caption says {text!r}. They read like 'the seven moves up and right, slowly'.")


def _events(text: str, whole: str) -> tuple[Event, ...]:
    surfaces = {said: surface for surface, said in _SAID.items()}
    ways = {said: way for way, said in _WAYS.items()}
    events: list[Event] = []
    while text:
        found = _EVENT.match(text)
        if found is None or (found["link"] == _FIRST) != (not events):
            raise ValueError(f"No caption says {text!r}, as in {whole!r}.")
        events.append(Event(surfaces[found["surface"]], ways.get(found["way"] or "")))
        text = text[found.end() :]
    return tuple(events)


def _check_word(name: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ValueError(f"The {name} of a caption is one of {', '.join(words)}; got {word!r}.")
