"""A picture's structure, PNG or JPEG, as it is looked at before it is sealed."""

from __future__ import annotations

from fuzz.target import Target, file_of, sound_source
from securetrain.errors import InvalidInput
from securetrain.sealed.sources.base import Wishes
from securetrain.sealed.sources.image_folder import ImageFolder
from support.real_sources import encoded, picture

OTHER = encoded(picture(0, 0))


def parse(data: bytes) -> None:
    """A folder of two classes, one of which is a good picture."""
    with file_of(data, "unused") as path:
        for name, content in (("cat", OTHER), ("dog", data)):
            folder = path.parent / "images" / name
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(content)
        sound_source(ImageFolder(path.parent / "images", Wishes(image_size=(3, 3))))


TARGET = Target(parse, (InvalidInput,))
