"""What a model that writes costs, counted as it is spent, and kept under a cap.

Every call is reserved at its most before it is made and settled at its real cost afterwards, so that calls at the same
time cannot pass the cap together. With a file the account survives a crash: what was reserved then counts as spent.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from registry.arms import Prices
from registry.atomic_files import place_file


class CapReached(RuntimeError):
    """The next call could cost more than is left."""


class _Account(msgspec.Struct):
    usd: float = 0.0
    reserved: float = 0.0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Spending:
    """An account at these prices; `max_usd` is the cap in USD, `book` the file that keeps the account.

    Raises
    ------
    ValueError: there is a cap and no price, or the book cannot be read.
    """

    def __init__(self, prices: Prices, max_usd: float | None = None, book: Path | None = None) -> None:
        if max_usd is not None and prices.cost(0, 0) is None:
            raise ValueError(
                "a cap in USD needs the prices of the model that writes; add `prices` to it in the config, "
                "or leave the cap out"
            )
        self.prices = prices
        self.max_usd = max_usd
        self._book = book
        self._account = _Account() if book is None else _read(book)
        self._account.usd += self._account.reserved
        self._account.reserved = 0.0

    @property
    def usd(self) -> float | None:
        """What was spent; None if the prices are not known."""
        return None if self.prices.cost(0, 0) is None else self._account.usd

    @property
    def calls(self) -> int:
        return self._account.calls

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of prompts and of answers."""
        return self._account.prompt_tokens, self._account.completion_tokens

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Set aside what a call of at most so many tokens costs; returns it. Raises CapReached."""
        most, account = self.prices.cost(prompt_tokens, completion_tokens) or 0.0, self._account
        if self.max_usd is not None and account.usd + account.reserved + most > self.max_usd:
            raise CapReached(
                f"the cap of {self.max_usd:g} USD is reached: {account.usd:.4f} USD are spent and the next call may "
                f"cost {most:.4f}; what is built is kept, and the same build with a higher cap goes on"
            )
        account.reserved += most
        self._keep()
        return most

    def settle(self, reserved: float, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """A call has ended with so many tokens. None: nobody knows, so what was reserved counts as spent."""
        cost = self.prices.cost(prompt_tokens, completion_tokens)
        account = self._account
        account.reserved = max(account.reserved - reserved, 0.0)
        account.usd += reserved if cost is None else cost
        account.calls += 1
        account.prompt_tokens += prompt_tokens or 0
        account.completion_tokens += completion_tokens or 0
        self._keep()

    def _keep(self) -> None:
        if self._book is not None:
            self._book.parent.mkdir(parents=True, exist_ok=True)
            place_file(self._book, msgspec.json.encode(self._account))


def _read(book: Path) -> _Account:
    try:
        return msgspec.json.decode(book.read_bytes(), type=_Account)
    except FileNotFoundError:
        return _Account()
    except msgspec.DecodeError as error:
        raise ValueError(
            f"the account {book} of this build cannot be read ({error}); remove it to start anew"
        ) from None
