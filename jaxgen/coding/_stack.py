"""What has been pushed, on the host: the state, and the words below it."""

import hashlib

import numpy as np

from jaxgen.coding import _ans as ans
from jaxgen.coding._file import CodeError


class Stack:
    """Words of 16 bits with a state on top, as `_ans` pops from and pushes to."""

    def __init__(self, state: ans.State | None = None, words: np.ndarray | None = None) -> None:
        """Begin with a state and with words, the lowest first; by default with nothing."""
        self.state = ans.empty_state() if state is None else state
        self._words = np.zeros(1024, np.uint16) if words is None else words
        self.size = 0 if words is None else len(words)

    @classmethod
    def from_bytes(cls, code: bytes) -> "Stack":
        """Read a code: the state, then words, the highest first."""
        if len(code) < ans.STATE_BYTES:
            raise CodeError(f"data is damaged: a code has at least {ans.STATE_BYTES} bytes")
        if (len(code) - ans.STATE_BYTES) % 2:
            raise CodeError(f"data must hold whole 2-byte words, got {len(code)} bytes")
        state, words = code[: ans.STATE_BYTES], code[ans.STATE_BYTES :]
        return cls(ans.unpack(state), np.frombuffer(words, "<u2").astype(np.uint16)[::-1].copy())

    def to_bytes(self, num_left_out: int = 0) -> bytes:
        """Write a code, without some of the lowest words."""
        words = self._words[num_left_out : self.size][::-1]
        return ans.pack(self.state) + words.astype("<u2").tobytes()

    def top(self, num_symbols: int) -> np.ndarray:
        """Return the words that so many symbols may need, the highest first; zeros below all."""
        num_words = ans.WORDS_A_SYMBOL * num_symbols
        words = self._words[max(0, self.size - num_words) : self.size][::-1]
        return np.pad(words, (0, num_words - len(words)))

    def drop(self, state: ans.State, num_words: int) -> None:
        """Take words away that were popped."""
        self.state, self.size = state, self.size - num_words
        if self.size < 0:
            raise CodeError("data is damaged: the code ends before the rows of its header do")

    def put(self, state: ans.State, words: np.ndarray) -> None:
        """Lay words on top that were pushed."""
        self.state, end = state, self.size + len(words)
        if end > len(self._words):
            self._words = np.resize(self._words, 2 * end)
        self._words[self.size : end] = words
        self.size = end

    def put_below(self, words: np.ndarray) -> None:
        """Lay words under all others, the lowest first."""
        self._words = np.concatenate([words, self._words[: self.size]])
        self.size = len(self._words)

    def drop_zeros(self) -> int:
        """Take words of zero away that nothing else is above or below; return how many."""
        if self._words[: self.size].any():
            return 0
        dropped, self.size = self.size, 0
        return dropped

    def check_is(self, other: "Stack") -> None:
        """Raise CodeError unless what is left is what was there in the beginning."""
        if self.to_bytes() != other.to_bytes():
            raise CodeError("data is damaged: the code goes on behind the rows of its header")


def random_words(seed: bytes, num_words: int) -> np.ndarray:
    """Return words without a pattern, always the same first ones for a seed, uint16."""
    stream = hashlib.shake_128(seed).digest(2 * num_words)
    return np.frombuffer(stream, "<u2").astype(np.uint16)
