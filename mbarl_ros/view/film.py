"""Films: captioned pictures of episodes, side by side, as GIF, MP4 or PNG files."""

from __future__ import annotations

import functools
import importlib.util
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import unwritable, write_file

GIF, MP4 = ENDINGS = ('.gif', '.mp4')
SUCCESS, FAILURE, MARK = 'forestgreen', 'firebrick', 'crimson'
_INK, _PAPER = 'black', 'white'
_CAPTION, _EDGE, _FONT = 42, 3, 14  # pixels: above a picture, around it; size of the letters
_COLOURS = 64  # of a GIF: few, so that what does not move takes no space


@dataclass(frozen=True)
class Clip:
    """One filmed episode: pictures, uint8 [height, width, 3], and a line of text for each.

    ``verdict`` on its end: True is a success, False is none, None is neither.
    """

    title: str
    pictures: Sequence[np.ndarray]
    texts: Sequence[str]
    verdict: bool | None


def ringed(picture: np.ndarray, column: float, row: float) -> np.ndarray:
    """Copy of a picture with a ring around a place in it (pixels)."""
    image = Image.fromarray(picture)
    radius = 0.07 * len(picture)
    place = (column - radius, row - 0.85 * radius, column + radius, row + 0.85 * radius)
    ImageDraw.Draw(image).ellipse(place, outline=MARK, width=max(round(radius / 6), 2))
    return np.asarray(image)


def frames(episodes: Iterable[Sequence[Clip]], pause: int) -> Iterator[Image.Image]:
    """Frames of a film: the clips of an episode side by side, one episode after the other.

    :param pause: frames for which the end of an episode is shown
    """
    for clips in episodes:
        for index in range(max(len(clip.pictures) for clip in clips) + pause):
            yield _beside([_panel(clip, index) for clip in clips])


def _beside(panels: Sequence[Image.Image]) -> Image.Image:
    width, height = sum(panel.width for panel in panels), max(panel.height for panel in panels)
    # H.264 takes even sizes only.
    whole = Image.new('RGB', (width + width % 2, height + height % 2), _PAPER)
    left = 0
    for panel in panels:
        whole.paste(panel, (left, 0))
        left += panel.width
    return whole


def _panel(clip: Clip, index: int) -> Image.Image:
    """Picture ``index`` of a clip, or its last, below its captions; its end is in colour."""
    last = len(clip.pictures) - 1
    picture = Image.fromarray(np.asarray(clip.pictures[min(index, last)]))
    size = (picture.width + 2 * _EDGE, picture.height + _CAPTION + _EDGE)
    image = Image.new('RGB', size, _PAPER)
    image.paste(picture, (_EDGE, _CAPTION))
    pen, ink = ImageDraw.Draw(image), _INK
    if index >= last and clip.verdict is not None:
        ink = SUCCESS if clip.verdict else FAILURE
        frame = (0, _CAPTION - _EDGE, size[0] - 1, size[1] - 1)
        pen.rectangle(frame, outline=ink, width=_EDGE)
    for line, text, colour in ((2, clip.title, _INK), (20, clip.texts[min(index, last)], ink)):
        pen.text((_EDGE, line), text, fill=colour, font=_font(text, picture.width))
    return image


def _font(text: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The usual font, or a smaller one in which a line of text is that wide at most."""
    fits = (font for font in _fonts() if font.getlength(text) <= width)
    return next(fits, _fonts()[-1])


@functools.cache
def _fonts() -> list[ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    return [ImageFont.load_default(size=size) for size in range(_FONT, 7, -1)]


def check_output(file: Path | None, folder: Path | None, *, overwrite: bool) -> None:
    """Refuse outputs before anything is filmed.

    :param file: .gif or .mp4
    :param folder: of PNG files
    :param overwrite: replace the file, and the frames of another film in the folder
    :raises ConfigError: an unknown ending, no package for MP4, something that exists.
    """
    if file is None and folder is None:
        raise ConfigError('give --output FILE.gif or FILE.mp4, or --frames FOLDER for PNG files')
    if file is not None and file.suffix.lower() not in ENDINGS:
        raise ConfigError(
            f"{file}: unknown ending '{file.suffix}'; use .gif or .mp4, or --frames FOLDER for PNG "
            'files'
        )
    if file is not None and file.suffix.lower() == MP4 and not importlib.util.find_spec('av'):
        raise ConfigError(
            f'{file}: MP4 needs the package av; install the extra with pip install '
            "'mbarl_ros[video]', or use .gif"
        )
    taken = []
    if file is not None and file.exists() and (file.is_dir() or not overwrite):
        taken.append(file)
    if folder is not None and folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not overwrite):
            taken.append(folder)
    if taken:
        raise ConfigError(f'{taken[0]}: exists already; give another name, or --overwrite')


def write_film(
    film: Iterator[Image.Image], seconds: float, file: Path | None, folder: Path | None
) -> None:
    """Write the frames of a film.

    :param seconds: for which a frame is shown
    :param file: .gif or .mp4
    :param folder: gets frame_0000.png and so on
    :raises ConfigError: something cannot be written.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob('frame_*.png'):
                old.unlink()
            film = _kept(film, folder)
        if file is None:
            for _ in film:
                pass
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        encode = _mp4 if file.suffix.lower() == MP4 else _gif
        write_file(file, encode(film, seconds))
    except OSError as error:
        raise unwritable(error.filename or str(file or folder), error) from None


def _kept(film: Iterator[Image.Image], folder: Path) -> Iterator[Image.Image]:
    for number, frame in enumerate(film):
        frame.save(folder / f'frame_{number:04}.png')
        yield frame


def _gif(film: Iterator[Image.Image], seconds: float) -> bytes:
    first = next(film)
    fixed = [ImageColor.getrgb(colour) for colour in (SUCCESS, FAILURE, MARK, _INK, _PAPER)]
    # One palette for all frames: what does not change from one to the next is not stored again.
    colours = first.quantize(_COLOURS - len(fixed)).getpalette()
    palette = Image.new('P', (1, 1))
    palette.putpalette([*itertools.chain.from_iterable(fixed), *(colours or [])])
    reduced = (
        frame.quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in itertools.chain([first], film)
    )
    data = io.BytesIO()
    next(reduced).save(
        data,
        'GIF',
        save_all=True,
        append_images=reduced,
        duration=round(1000 * seconds),
        loop=0,
        optimize=True,
    )
    return data.getvalue()


def _mp4(film: Iterator[Image.Image], seconds: float) -> bytes:
    import av

    first, data = next(film), io.BytesIO()
    with av.open(data, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=1 / Fraction(seconds).limit_denominator(1000))
        stream.width, stream.height = first.size
        stream.pix_fmt = 'yuv420p'  # all players know it
        for frame in itertools.chain([first], film):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return data.getvalue()
