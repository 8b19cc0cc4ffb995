"""Text on pictures: a font that is always there, labels that always draw, widths that are always kept."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

ELLIPSIS = "..."


@lru_cache(maxsize=64)
def font(size: int) -> Font:
    """Pillow's bundled font in `size` pixels: the same on every machine."""
    return ImageFont.load_default(max(6, size))


@lru_cache(maxsize=4096)
def printable(text: str) -> str:
    """One line that the font can draw: no control characters; letters it lacks lose their accents or become boxes."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # lone surrogates
    text = unicodedata.normalize("NFC", text)
    characters = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cf", "Mn", "Me"):
            continue
        if category.startswith(("C", "Z")):
            characters.append(" ")
        elif _has(character):
            characters.append(character)
        else:
            plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
            characters.append(plain if plain and all(map(_has, plain)) else "\u25a1")
    return " ".join("".join(characters).split())


@lru_cache(maxsize=4096)
def _has(character: str) -> bool:
    return character.isascii() or _shape(character) != _shape("\uffff")


@lru_cache(maxsize=4096)
def _shape(character: str) -> bytes:
    mask = font(20).getmask(character, mode="L")
    return bytes(mask)


@lru_cache(maxsize=4096)
def shorten(text: str, size: int, width: float) -> str:
    """`text` made printable and cut to `width` pixels with an ellipsis; empty where not even that has room."""
    text = printable(text)
    face = font(size)
    if face.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        if face.getlength(text[:middle].rstrip() + ELLIPSIS) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + ELLIPSIS if low else ""


def clock(seconds: float, decimals: int = 1) -> str:
    """Seconds as `m:ss.s`, from an hour on as `h:mm:ss.s`."""
    ticks = round(max(0.0, seconds) * 10**decimals)
    whole, rest = divmod(ticks, 10**decimals)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    front = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{front}.{rest:0{decimals}d}" if decimals else front
