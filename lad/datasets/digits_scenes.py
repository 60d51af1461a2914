"""Rendering of handwritten digits on cards in front of photographs, with NumPy, Pillow and scikit-learn only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images

SPLITS = ("train", "val")
CARD_SIDE = (20, 52)  # px, smallest and largest side of a card
CARDS_PER_IMAGE = (1, 5)
IMAGE_SIDE = (64, 192)  # px; the largest is what the validation part of a photograph is wide
VAL_FROM_X = 448  # px; photographs (640 px wide) left of this column train, the others validate
VAL_SHARE = 0.2  # of the digits of every class
MAX_COVERED = 0.15  # of the smaller of two cards; bounds their IoU as well

_PLACING_ATTEMPTS = 50
_RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Card:
    """A digit on its card.

    Attributes:
        bbox: ``(x, y, w, h)`` of the card, whole px, within the image.
        digit: what is written on it, 0 to 9.
        digit_index: which of the 1,797 images of ``sklearn.datasets.load_digits`` it is.
    """

    bbox: tuple[int, int, int, int]
    digit: int
    digit_index: int


@dataclass(frozen=True, eq=False)
class Scene:
    """One image and its objects.

    Attributes:
        pixels: ``(size, size, 3)`` uint8, RGB.
        cards: in the order they were laid down: later ones may cover a little of earlier ones.
        photo: file name of the photograph behind them.
        crop: ``(x, y, w, h)`` of the background in that photograph, px.
        flipped: whether the background was mirrored left to right.
    """

    pixels: np.ndarray
    cards: tuple[Card, ...]
    photo: str
    crop: tuple[int, int, int, int]
    flipped: bool


@dataclass(frozen=True, eq=False)
class Sources:
    """Source material of the scenes.

    Attributes:
        digits: ``(1797, 8, 8)`` float, ink from 0 to 1.
        labels: ``(1797,)`` int, 0 to 9.
        photos: file name to ``(427, 640, 3)`` uint8, RGB.
    """

    digits: np.ndarray
    labels: np.ndarray
    photos: dict[str, np.ndarray]

    @classmethod
    def load(cls) -> Sources:
        """Load the digits and photographs that scikit-learn contains; nothing is downloaded."""
        digits, samples = load_digits(), load_sample_images()
        # The data set's `filenames` are paths of this computer; only the names may reach the JSON.
        names = [str(name).replace("\\", "/").rsplit("/", 1)[-1] for name in samples.filenames]
        photos = dict(sorted(zip(names, samples.images, strict=True)))
        return cls(digits=digits.images / 16.0, labels=digits.target.astype(int), photos=photos)


def split_digits(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Split the digits into training and validation, every class in the same proportion.

    Args:
        labels: ``(N,)`` int, the classes.
        seed: of the permutation.

    Returns:
        ``'train'`` and ``'val'`` to sorted indices into ``labels``; together they are all of them, once.
    """
    rng = np.random.default_rng([seed, 0])
    parts: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        val_count = round(VAL_SHARE * len(of_class))
        parts["val"].append(of_class[:val_count])
        parts["train"].append(of_class[val_count:])
    return {split: np.sort(np.concatenate(indices)) for split, indices in parts.items()}


def make_scenes(
    sources: Sources, split: str, count: int, size: int, seed: int, imbalance: float = 1.0
) -> Iterator[Scene]:
    """Generate the scenes of one split.

    The n-th scene depends on ``split``, ``size`` and ``seed`` only, not on their number.

    Args:
        sources: digits and photographs.
        split: ``'train'`` or ``'val'``; the two share no digit and no piece of photograph.
        count: how many scenes.
        size: side of the images, px, within ``IMAGE_SIDE``.
        seed: of everything random.
        imbalance: how much oftener the first class is drawn than the last; 1 for balanced classes.

    Yields:
        The scenes.
    """
    stream = SPLITS.index(split) + 1
    indices, rng = split_digits(sources.labels, seed)[split], np.random.default_rng([seed, stream])
    deck = _deal(indices, rng) if imbalance == 1 else _deal_long_tail(indices, sources.labels, imbalance, rng)
    for index in range(count):
        rng = np.random.default_rng([seed, stream, index])
        canvas, photo, crop, flipped = _background(sources.photos, split, size, rng)
        cards = []
        for bbox in _place_cards(size, rng):
            chosen = next(deck)
            _draw_card(canvas, bbox, sources.digits[chosen], rng)
            cards.append(Card(bbox, int(sources.labels[chosen]), chosen))
        yield Scene(_photograph(canvas, rng), tuple(cards), photo, crop, flipped)


def _deal(indices: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Yield every index once, in random order, before any is repeated, which keeps the classes balanced."""
    while True:
        yield from rng.permutation(indices).tolist()


def class_shares(count: int, imbalance: float) -> np.ndarray:
    """Shares ``(count,)`` of classes that fall exponentially, the last ``imbalance`` times below the first.

    Args:
        count: how many classes.
        imbalance: at least 1.
    """
    shares = imbalance ** -np.linspace(0, 1, count)
    return shares / shares.sum()


def _deal_long_tail(
    indices: np.ndarray, labels: np.ndarray, imbalance: float, rng: np.random.Generator
) -> Iterator[int]:
    """Yield indices whose classes are drawn by their shares; each class's are all dealt before any is repeated."""
    classes = np.unique(labels[indices])
    decks = [_deal(indices[labels[indices] == label], rng) for label in classes]
    shares = class_shares(len(classes), imbalance)
    while True:
        yield next(decks[rng.choice(len(classes), p=shares)])


def _background(
    photos: dict[str, np.ndarray], split: str, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, str, tuple[int, int, int, int], bool]:
    photo = list(photos)[rng.integers(len(photos))]
    height, width = photos[photo].shape[:2]
    left, right = (0, VAL_FROM_X) if split == "train" else (VAL_FROM_X, width)
    x = int(rng.integers(left, right - size + 1))
    y = int(rng.integers(0, height - size + 1))
    flipped = bool(rng.integers(2))
    pixels = photos[photo][y : y + size, x : x + size].astype(np.float64)
    return pixels[:, ::-1].copy() if flipped else pixels, photo, (x, y, size, size), flipped


def _place_cards(size: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    placed: list[tuple[int, int, int, int]] = []
    for _ in range(rng.integers(CARDS_PER_IMAGE[0], CARDS_PER_IMAGE[1] + 1)):
        for _ in range(_PLACING_ATTEMPTS):
            side, aspect = rng.uniform(*CARD_SIDE), rng.uniform(0.8, 1.25)
            w, h = (round(float(v)) for v in np.clip([side * aspect**0.5, side / aspect**0.5], *CARD_SIDE))
            bbox = (int(rng.integers(size - w + 1)), int(rng.integers(size - h + 1)), w, h)
            if all(_covered(bbox, other) <= MAX_COVERED for other in placed):
                placed.append(bbox)
                break
    return placed


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection over the smaller area: unlike the IoU it sees a small card on a large one."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0) / min(a[2] * a[3], b[2] * b[3])


def _draw_card(
    canvas: np.ndarray, bbox: tuple[int, int, int, int], digit: np.ndarray, rng: np.random.Generator
) -> None:
    x, y, w, h = bbox
    paper, ink_colour = rng.uniform(175, 255, 3), rng.uniform(0, 70, 3)
    card = np.empty((h, w, 3))
    card[:] = paper * rng.uniform(0.65, 1.0)  # the rim: on a bright sky a card has an edge all the same
    card[1:-1, 1:-1] = paper

    side = round(min(w, h) * rng.uniform(0.7, 0.92))
    top, left = (round((slack - side) * rng.uniform(0.3, 0.7)) for slack in (h, w))
    grey = Image.fromarray(np.round(digit * 255).astype(np.uint8))
    resampling = _RESAMPLING[rng.integers(len(_RESAMPLING))]
    ink = np.asarray(grey.resize((side, side), resampling)) / 255.0 * rng.uniform(0.8, 1.0)
    patch = card[top : top + side, left : left + side]
    patch += ink[..., None] * (ink_colour - patch)
    canvas[y : y + h, x : x + w] = card


def _photograph(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give the whole scene one camera: contrast, brightness, blur and noise, all slight."""
    contrast, brightness = rng.uniform(0.85, 1.1), rng.uniform(-15, 15)
    graded = _to_uint8((canvas - 128.0) * contrast + 128.0 + brightness)
    blurred = Image.fromarray(graded).filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.7)))
    noise = rng.normal(0.0, rng.uniform(0.0, 4.0), canvas.shape)
    return _to_uint8(np.asarray(blurred) + noise)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)
