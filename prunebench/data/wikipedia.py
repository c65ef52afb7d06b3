"""enwik8 and text8: 100,000,000 bytes of Wikipedia as marked-up text, and as letters and spaces (Mahoney 2006)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from prunebench.config.arguments import validated
from prunebench.config.ranges import Range
from prunebench.data.download import Remote, fetch
from prunebench.data.files import checked, not_found, remedy, unzip
from prunebench.data.text import Text, TextData, split
from prunebench.errors import UserError

NUM_BYTES = 100_000_000
BASES = ("http://mattmahoney.net/dc",)


@validated
class Enwik8(TextData):
    """The first 100,000,000 bytes of an English Wikipedia dump: 90 % train, 5 % validate, 5 % test.

    Reads ``enwik8/enwik8`` or ``enwik8/enwik8.zip``. A shorter text is declared by ``num_bytes``: the same shares of
    so many bytes from the beginning, with another name, so that its bits per character are never taken for the
    official ones.

    Args:
        num_bytes: 100,000,000 = the official split; fewer = the beginning only.
        file: a file below ``paths.data`` that holds exactly the first ``num_bytes`` bytes; null = the official file.
        drop_newlines: leave out every newline after the split, as Transformer-XL's data pipeline does
            (``kimiyoung/transformer-xl:pytorch/data_utils.py:183-211``); then 204 symbols are left.
        **common: the arguments of :class:`~prunebench.data.text.TextData`.

    Raises:
        UserError: a value is out of range, or a short text has the official name.
    """

    official: ClassVar[str] = "enwik8"
    md5: ClassVar[str] = "a1fa5ffddb56f4953e226637dabbb36a"  # of the unpacked text
    zip_sha256: ClassVar[str] = "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"

    def __init__(
        self,
        *,
        num_bytes: Annotated[int, Range(low=1000, high=NUM_BYTES)],
        file: str | None,
        drop_newlines: bool,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.num_bytes, self.file, self.drop_newlines = num_bytes, file, drop_newlines
        if self.num_bytes < NUM_BYTES and self.name == self.official:
            raise UserError(
                f"dataset.num_bytes={num_bytes} is not the official {self.official}; give the short text its own name "
                f"(dataset.name={self.official}_short)"
            )
        if self.num_bytes == NUM_BYTES and file is not None:
            raise UserError(f"dataset.file is for a short text; the whole one is {self.official}/{self.official}")

    def fetch(self, root: Path) -> None:
        """Download the official zip, unless it or a file that suffices is there."""
        if self._found(root) is None:
            fetch(Remote(self._packed, BASES, f"sha256:{self.zip_sha256}"), root)

    def read(self, root: Path) -> Text:
        path = self._found(root)
        if path is None:
            raise not_found(
                self.name,
                root,
                f"{self.official} (or {self.official}.zip) into {root / self.official}; a file with its beginning "
                "is used by dataset.file and dataset.num_bytes",
            )
        text = split(self._content(path))
        if self.drop_newlines:
            text = Text(*(part.replace(b"\n", b"") for part in (text.train, text.validation, text.test)))
        return text

    def fingerprint(self) -> dict[str, Any]:
        whole_text = self.num_bytes == NUM_BYTES
        return {
            **super().fingerprint(),
            "num_bytes": self.num_bytes,
            "official_split": whole_text,
            "split": f"90 %, 5 %, 5 % of {'all' if whole_text else 'the first'} {self.num_bytes:,} bytes",
            "drop_newlines": self.drop_newlines,
        }

    @property
    def _packed(self) -> str:
        return f"{self.official}/{self.official}.zip"

    def _found(self, root: Path) -> Path | None:
        """The file to read: the short one, the official one, its zip; None if there is none."""
        names = [*([self.file] if self.file else []), f"{self.official}/{self.official}", self._packed]
        return next((root / name for name in names if (root / name).is_file()), None)

    def _content(self, path: Path) -> bytes:
        """The first ``num_bytes`` bytes, checked as far as a checksum is known."""
        advice = remedy(self.official, path)
        content = path.read_bytes()
        if path.suffix == ".zip":
            content = unzip(checked(content, path, advice, sha256=self.zip_sha256), path, self.official, advice)
        if self.file is not None and path.name == Path(self.file).name:
            return checked(content, path, "give its size in dataset.num_bytes", size=self.num_bytes)
        return checked(content, path, advice, size=NUM_BYTES, md5=self.md5)[: self.num_bytes]


class Text8(Enwik8):
    """The cleaned text of the same dump, letters a to z and spaces, in ``text8``; split as enwik8."""

    official = "text8"
    md5 = "3bea1919949baf155f99411df5fada7e"
    zip_sha256 = "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232"
