"""Images that need no download: handwriting and street numbers, rendered from what the pinned packages contain.

`mnist`: scikit-learn's 1,797 scanned digits (UCI optdigits, 8x8), enlarged to MNIST's 28x28 and slightly moved.
`svhn`: numbers set in Matplotlib's fonts, with the colours, blur and noise of SVHN's 32x32 crops of house numbers.
They replace the real images where there is no network. Results on them say nothing about the paper's.

The pixels come from Pillow's scalar code and integer noise. The last bits of vectorised floats would depend on the CPU.
"""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.datasets import load_digits

VARIANTS = 7  # pictures of each scanned digit
TEST_SHARE = 6  # every sixth scanned digit of a class is a test digit
STREET_COUNTS = {"train": 10_000, "test": 2_000}
FONTS = (  # of Matplotlib, with readable digits; a fixed list, since any change of it changes all images
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSans-Oblique", "DejaVuSansMono",
    "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic", "DejaVuSerif-Italic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "STIXGeneralItalic", "cmb10", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
CANVAS = 64  # street numbers are rendered at twice their size


def read(name: str, seed: int) -> tuple[str, dict[str, np.ndarray]]:
    """Render the images of one modality. Return their name for messages, and the four arrays of an archive.

    Images uint8 (N, 28, 28) or (N, 32, 32, 3), labels int64 (N,). The name is mnist or svhn.
    """
    render = handwriting if name == "mnist" else street_numbers
    return f"built-in {name}", render(seed)


def handwriting(seed: int) -> dict[str, np.ndarray]:
    """Return seven variants of each scanned digit, white on black: 10,507 training and 2,072 test images (28, 28)."""
    scans = load_digits()
    arrays = {}
    for part, originals in split_originals(scans.target, seed).items():
        rng = np.random.default_rng([seed, len(originals)])
        originals = np.tile(originals, VARIANTS)  # the rarer variants last: pairing cuts the end of each class
        arrays[f"{part}_images"] = np.stack([_variant(scans.images[i], rng) for i in originals])
        arrays[f"{part}_labels"] = scans.target[originals].astype(np.int64)
    return arrays


def split_originals(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return shuffled indices of the scanned digits for training and for testing, in equal shares of each class.

    The split comes before the variants, so that no two variants of one scan are on both sides.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list] = {"train": [], "test": []}
    for digit in range(10):
        originals = rng.permutation(np.flatnonzero(labels == digit))
        cut = len(originals) // TEST_SHARE
        parts["test"].append(originals[:cut])
        parts["train"].append(originals[cut:])
    return {part: rng.permutation(np.concatenate(indices)) for part, indices in parts.items()}


def _variant(scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a variant (28, 28) of a scan (8, 8) of values 0..16: turned, slanted, scaled, shifted, sharpened."""
    small = np.zeros((16, 16), np.uint8)
    small[4:12, 4:12] = (scan * 15).astype(np.uint8)
    angle, slant = rng.uniform(-0.2, 0.2), rng.uniform(-0.25, 0.25)
    across, down = rng.uniform(0.85, 1.1, 2) * 8 / 40  # 8 scan pixels become about 20 of MNIST's, at double size
    linear = np.array([[across, slant * across], [angle * down, down]])
    offset = 8 - linear @ (28 + rng.uniform(-3, 3, 2))  # maps centre to centre
    affine, smooth = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    grey = Image.fromarray(small).transform((56, 56), affine, _coefficients(linear, offset), smooth)
    sharp = grey.filter(ImageFilter.UnsharpMask(radius=5, percent=120, threshold=0))  # opens the small loops
    return np.asarray(sharp.point(_contrast(int(rng.integers(90, 140)))).reduce(2))


@cache
def _contrast(threshold: int) -> list[int]:
    """Return Pillow's table of new grey values: nearly black or white. A lower `threshold` gives thicker strokes."""
    return [min(max((grey - threshold) * 4, 0), 255) for grey in range(256)]


def _coefficients(linear: np.ndarray, offset: np.ndarray) -> tuple[float, ...]:
    """Return a 2x2 matrix and an offset as the six numbers that Pillow's AFFINE takes."""
    return (*linear[0], offset[0], *linear[1], offset[1])


def street_numbers(seed: int) -> dict[str, np.ndarray]:
    """Return crops of house numbers round one digit: 10,000 training and 2,000 test images (32, 32, 3), balanced."""
    arrays = {}
    for part, count in STREET_COUNTS.items():
        rng = np.random.default_rng([seed, count])
        labels = rng.permutation(np.arange(count) % 10)
        arrays[f"{part}_images"] = np.stack([_street_number(digit, rng) for digit in labels])
        arrays[f"{part}_labels"] = labels
    return arrays


def _street_number(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Return one crop (32, 32, 3) of a house number with `digit` in its middle."""
    wall, paint = _colours(rng)
    picture = _gradient(wall, rng)
    mask = _lettering(digit, rng)
    if rng.random() < 0.3:  # a shadow, or the edge of a raised digit
        shadow = Image.new("RGB", picture.size, tuple(int(c) // 2 for c in wall))
        picture.paste(shadow, tuple(rng.integers(-3, 4, 2).tolist()), mask)
    picture.paste(_gradient(paint, rng), (0, 0), mask)
    side = int(rng.integers(16, 33))  # many of SVHN's crops are enlarged from few pixels
    picture = picture.resize((side, side), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BICUBIC)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    reach = rng.integers(1, 11)
    noise = rng.integers(-reach, reach + 1, (32, 32, 3), dtype=np.int16)
    return (np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return muted RGB colours of the wall and the paint; three quarters are bright digits on a dark wall."""
    contrast = rng.integers(70, 181)
    dark = rng.integers(20, 236 - contrast)
    levels = [dark, dark + contrast]
    colours = []
    for level in levels if rng.random() < 0.75 else reversed(levels):
        warmth = rng.integers(-32, 33)  # from bluish slate to brick
        colours.append((level + [warmth, 0, -warmth] + rng.integers(-10, 11, 3)).clip(0, 255))
    wall, paint = colours
    return wall, paint


def _gradient(colour: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return a square of `colour` in uneven light, interpolated between four corners."""
    corners = (colour + rng.integers(-25, 26, (2, 2, 1))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(corners).resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)


def _lettering(digit: int, rng: np.random.Generator) -> Image.Image:
    """Return the mask of the paint: the digit, often with neighbours that the crop cuts off, in perspective."""
    font = _font(FONTS[rng.integers(len(FONTS))], int(rng.integers(60, 85)))
    mask = Image.new("L", (2 * CANVAS, CANVAS))
    draw = ImageDraw.Draw(mask)
    middle = np.array([CANVAS, CANVAS // 2])
    left, top, right, bottom = font.getbbox(str(digit), anchor="ls")
    start, baseline = middle - [(left + right) / 2, (top + bottom) / 2]
    neighbours = rng.integers(10, size=2)
    draw.text((start, baseline), str(digit), fill=255, font=font, anchor="ls")
    gap = rng.uniform(-2, 6)
    for anchor, x, neighbour in (("rs", start + left - gap, neighbours[0]), ("ls", start + right + gap, neighbours[1])):
        if rng.random() < 0.5:
            draw.text((x, baseline), str(neighbour), fill=255, font=font, anchor=anchor)
    slant, turn = rng.uniform(-0.2, 0.2), rng.uniform(-0.12, 0.12)
    linear = np.array([[rng.uniform(0.8, 1.2), slant], [turn, rng.uniform(0.95, 1.25)]])
    offset = middle - linear @ (CANVAS // 2 + rng.uniform(-4, 4, 2))
    away = rng.uniform(-0.003, 0.003, 2)  # perspective: one side of the plate is farther away
    centred = 1 + CANVAS // 2 * away.sum()  # the divisor of the map in the middle, which must stay in its place
    coefficients = (*_coefficients(linear * centred, offset * centred), *away)
    return mask.transform((CANVAS, CANVAS), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    # Pillow's other layout engine depends on a library of the system
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
