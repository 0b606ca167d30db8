"""Whether a question that was made up is one of a benchmark's, so that no test is trained on.

The rule of the field (GPT-3, appendix C): a run of 13 words in common. Shorter questions of a benchmark are found
whole, and reworded ones by MinHash. Questions and answers of the training set are both looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from offline.answers import rows_from_file
from offline.bohdi.question_words import Questions, words_of
from offline.minhash import Runs, runs_of

RUN: Final = 13
"""So many words in a row are no accident."""
LETTERED: Final = 4
"""So many of them have a letter: rows of numbers are alike by accident."""
LEAST: Final = 5
"""A benchmark's question of fewer words is only found as the whole of another question."""
COLUMNS: Final = ("question", "query", "problem", "prompt", "instruction", "input", "text")
"""Where the question of a row is looked for, in this order."""


class BenchmarkUnreadable(ValueError):
    """A benchmark's file cannot be read. The message says what was expected, what came and what to do."""


class Benchmarks:
    """The questions of all benchmarks that must stay unseen."""

    def __init__(self) -> None:
        self._runs: dict[int, str] = {}
        self._short: dict[int, dict[int, str]] = {}
        self._whole: dict[tuple[str, ...], str] = {}
        self._reworded = Questions()
        self.questions = 0

    def add(self, name: str, texts: Iterable[str]) -> None:
        """Add a benchmark's questions; those without a word are passed over."""
        for text in texts:
            words = words_of(text)
            if not words:
                continue
            self.questions += 1
            self._whole.setdefault(tuple(words), name)
            self._reworded.same_or_add(name, words)
            if len(words) >= RUN:
                self._runs.update(dict.fromkeys(_telling(words), name))
            elif len(words) >= LEAST:
                self._short.setdefault(len(words), {}).update(dict.fromkeys(runs_of(words, len(words)), name))

    def clash(self, question: str, answer: str = "") -> str | None:
        """The benchmark that the question is from, or that the answer quotes; None if there is none."""
        if not self.questions:
            return None
        asked, said = words_of(question), words_of(answer)
        found = self._whole.get(tuple(asked)) or (self._reworded.same(asked) if asked else None)
        if found is not None:
            return found
        for words in (asked, said):
            if (hit := _first(self._runs, _telling(words))) is not None:
                return hit
        for length, known in self._short.items():
            if len(asked) >= length and (hit := _first(known, runs_of(asked, length))) is not None:
                return hit
        return None


def _telling(words: list[str]) -> Runs:
    """Digests of the runs of `RUN` words that are no mere rows of numbers and signs."""
    lettered = [any(char.isalpha() for char in word) for word in words]
    found: set[int] = set()
    for start in range(len(words) - RUN + 1):
        if sum(lettered[start : start + RUN]) >= LETTERED:
            found |= runs_of(words[start : start + RUN], RUN)
    return frozenset(found)


def _first(known: dict[int, str], runs: Runs) -> str | None:
    return next((known[run] for run in sorted(runs) if run in known), None)


def read_benchmarks(paths: Sequence[Path]) -> Benchmarks:
    """The benchmarks of these files, each named by its file. Raises BenchmarkUnreadable."""
    found = Benchmarks()
    for path in paths:
        before = found.questions
        found.add(path.name, _texts(path))
        if found.questions == before:
            raise BenchmarkUnreadable(f"{path} holds no question; name a file with one of the columns {COLUMNS}")
    return found


def _texts(path: Path) -> Iterator[str]:
    """The questions of a file: lines of text, or rows of JSON lines or Parquet. Raises BenchmarkUnreadable."""
    if path.suffix == ".txt":
        try:
            yield from path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BenchmarkUnreadable(f"cannot read the benchmark {path}: {error}") from error
        return
    try:
        rows = _parquet(path) if path.suffix == ".parquet" else rows_from_file(path)
        for number, row in enumerate(rows, 1):
            text = next((row[name] for name in COLUMNS if isinstance(row.get(name), str)), None)
            if text is None:
                raise BenchmarkUnreadable(
                    f"{path}, row {number}: none of the columns {', '.join(COLUMNS)} holds a text"
                )
            yield text
    except BenchmarkUnreadable:
        raise
    except (OSError, ValueError) as error:
        raise BenchmarkUnreadable(f"cannot read the benchmark {path}: {error}") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        wanted = [name for name in COLUMNS if name in file.schema_arrow.names]
        if not wanted:
            raise BenchmarkUnreadable(f"{path} has none of the columns {', '.join(COLUMNS)}")
        for batch in file.iter_batches(columns=wanted):
            yield from batch.to_pylist()
