"""The journal of a campaign: each cell's result, written the moment that it is known.

It is a file of one JSON object a line, only ever added to and synced after each line. What a killed
campaign left half written at its end is cut off. A second result for one cell is not counted,
unless the machine could not go on with the first one: such a cell is still to be run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from grpoenv.campaign.cell import CellResult
from grpoenv.errors import InputError, OperationError

__all__ = ["Journal", "open_journal"]

_SCHEMA = 1


class Journal:
    """The results of a campaign so far, by the key of their cell."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.results = dict[str, CellResult]()
        self._read()

    def add(self, result: CellResult) -> bool:
        """Keep ``result`` for good; False, and nothing is kept, where its cell has one already."""
        if self.has(result.key):
            return False
        line = json.dumps({"schema": _SCHEMA, **result.to_json()}) + "\n"
        with self._path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.results[result.key] = result
        return True

    def has(self, key: str) -> bool:
        """Tell whether there is a result for the cell ``key`` that tells something of its stack."""
        return key in self.results and not self.results[key].blocked

    def _read(self) -> None:
        self._path.touch()
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(self._path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            result = self._parse(line, number)
            if not self.has(result.key):
                self.results[result.key] = result

    def _parse(self, line: bytes, number: int) -> CellResult:
        try:
            data = json.loads(line)
            if data.pop("schema") != _SCHEMA:
                raise ValueError(f"is not of schema {_SCHEMA}")
            return CellResult.from_json(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"is no result of a cell: {error}",
                path=self._path,
                line=number,
                remedy="begin a new campaign in another folder",
            ) from error


@contextmanager
def open_journal(folder: Path) -> Iterator[Journal]:
    """Give the journal of the campaign in ``folder``, which is made if need be, to one process.

    Raises OperationError while another one has it, InputError if it cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "journal.lock")
    try:
        with lock.acquire(timeout=0):
            yield Journal(folder / "journal.jsonl")
    except Timeout as error:
        raise OperationError(f"another process runs the campaign in {folder}") from error
