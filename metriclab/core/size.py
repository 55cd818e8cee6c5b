"""Height and width of images, as a recipe gives them: one number for squares, or two."""

from __future__ import annotations

Size = int | tuple[int, int]
"""In pixels: of both sides, or (height, width)."""


def height_and_width(size: Size) -> tuple[int, int]:
    """Both numbers.

    Example:
        >>> height_and_width(32), height_and_width((256, 128))
        ((32, 32), (256, 128))
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_text(height: int, width: int) -> str:
    """As a recipe writes it: `32`, or `[256, 128]`."""
    return str(height) if height == width else f"[{height}, {width}]"
