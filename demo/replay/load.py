"""A replay sample by its name or its path, in whichever form it is kept."""

from __future__ import annotations

from pathlib import Path

from demo.replay.parquet import read_parquet
from demo.replay.sample import BUNDLED, ReplaySample, SampleError, bundled_samples, read_bundle


def load_sample(name: str | Path) -> ReplaySample:
    """Read a bundled sample by its name, or a file by its path (`.jsonl.gz`, or `.parquet` with pyarrow installed).

    Raises
    ------
    SampleError: no such sample or file, a damaged file, or pyarrow is missing.
    """
    path = Path(name)
    if path.suffix == ".parquet":
        return read_parquet(path)
    if path.suffix != ".gz":
        path = BUNDLED / f"{name}.jsonl.gz"
        if not path.is_file():
            raise SampleError(
                f"no bundled sample {str(name)!r}; there are {', '.join(bundled_samples())}, or give a file"
            )
    return read_bundle(path)
