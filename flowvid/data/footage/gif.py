"""What FFmpeg does not do for GIF: a palette of its own for every frame, and a comment inside.

A comment is an extension block after the head of the file (GIF89a specification, section 24): 0x21 0xFE, pieces of at
most 255 bytes with their lengths before them, and an empty piece.

References:
    Graphics Interchange Format, version 89a (CompuServe, 1990), https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

__all__ = ["gif_comment", "paletted", "with_comment"]

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


def paletted(pixels: UInt8[np.ndarray, "height width 3"]) -> "VideoFrame":
    """A frame of at most 256 colours, chosen by median cut; exact where there are no more."""
    import av
    from PIL import Image

    image = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)
    colours = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), dtype=np.uint8)
    palette[:, 0] = 255
    palette[: len(colours), 1:] = colours
    return av.VideoFrame.from_ndarray((np.asarray(image), palette), format="pal8")  # pyrefly: ignore[bad-argument-type]


def with_comment(content: bytes, comment: str) -> bytes:
    """A GIF with a comment after its head."""
    end = _head(content)
    text = comment.encode()
    pieces = [text[at : at + 255] for at in range(0, len(text), 255)]
    block = b"".join((b"\x21\xfe", *(bytes([len(piece)]) + piece for piece in pieces), b"\0"))
    return content[:end] + block + content[end:]


def gif_comment(path: Path) -> str:
    """The comment after the head of a GIF; empty where there is none."""
    content = path.read_bytes()
    at = _head(content)
    if content[at : at + 2] != b"\x21\xfe":
        return ""
    at += 2
    pieces = []
    while content[at : at + 1] not in (b"", b"\0"):
        pieces.append(content[at + 1 : at + 1 + content[at]])
        at += 1 + content[at]
    return b"".join(pieces).decode(errors="replace")


def _head(content: bytes) -> int:
    """Length of signature, screen and global palette."""
    if not content.startswith((b"GIF87a", b"GIF89a")) or len(content) < 13:
        raise ValueError("Expected a GIF; the file does not begin like one.")
    return 13 + (3 * 2 ** (1 + (content[10] & 7)) if content[10] & 0x80 else 0)
