"""The one error that everything in `jgraph.data` raises for bad data."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset that is unknown, or whose files are missing, damaged or not what they should be.

    Attributes:
      dataset: name of the dataset ("" where none is involved).
      file: the file at fault, or None.
      cause: what is wrong.
      fix: what to do about it, or None.
    """

    def __init__(
        self, dataset: str, cause: str, *, file: str | None = None, fix: str | None = None
    ):
        self.dataset = dataset
        self.file = file
        self.cause = cause
        self.fix = fix
        where = f"dataset {dataset!r}" if dataset else "jgraph.data"
        if file is not None:
            where += f", file {str(file)!r}"
        super().__init__(f"{where}: {cause}" + (f". Fix: {fix}" if fix else ""))

    def __reduce__(self):
        return _rebuild, (self.dataset, self.cause, self.file, self.fix)


def _rebuild(dataset, cause, file, fix):
    return DatasetError(dataset, cause, file=file, fix=fix)
