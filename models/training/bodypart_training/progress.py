"""A progress line with the time that is left; on a terminal it rewrites itself, in a log it comes every half minute."""

from __future__ import annotations

import sys
import time


class Progress:
    def __init__(self, total: int, what: str, stream=None):
        self.total, self.what, self.done = total, what, 0
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.started = self.shown = time.monotonic()

    def step(self, note: str = "", count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else 30) and self.done < self.total:
            return
        self.shown = now
        left = (now - self.started) / self.done * (self.total - self.done)
        line = f"{self.what} {self.done}/{self.total} {100 * self.done // self.total}% ETA {_clock(left)} {note}".rstrip()
        self.stream.write(("\r\x1b[K" + line) if self.terminal else line + "\n")
        self.stream.flush()

    def close(self) -> None:
        if self.terminal:
            self.stream.write("\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
