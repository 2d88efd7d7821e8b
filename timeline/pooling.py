"""Pooling: any span of a recording, from what follows it: its mean and deviation, or its rows."""

import numpy as np


class SpanSums:
    """Running sums over rows of a recording, from which any span that is kept is pooled.

    What was forgotten is gone, so memory does not grow with the recording. Sums are float64 and
    count from the first row that is kept: nothing drifts over hours.

        rows      |--forgotten--|--------kept--------|
        sums                    0  s1  s1+s2 ...
    """

    def __init__(self, size: int):
        self.end = 0  # rows appended so far
        self._start = 0  # of what is kept
        # Of the row before each: values, their squares, and how many count.
        self._sums = np.zeros((1, 2 * size + 1))
        self._size = size

    def __len__(self) -> int:
        """Rows that are kept."""
        return len(self._sums) - 1

    def append(self, rows: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Goes on with rows (n, size), of which those count where `counts` (n,) is True."""
        new = np.empty((len(rows), 2 * self._size + 1))
        new[:, : self._size] = rows
        np.square(new[:, : self._size], out=new[:, self._size : -1])
        new[:, -1] = 1.0
        if counts is not None:
            new *= counts[:, None]
        np.cumsum(new, axis=0, out=new)
        new += self._sums[-1]
        self._sums = np.concatenate([self._sums, new])
        self.end += len(rows)

    def forget(self, before: int) -> None:
        """Frees rows that lie before this one."""
        first = min(before, self.end) - self._start
        if first > 0:
            self._sums = self._sums[first:] - self._sums[first]
            self._start += first

    def pool(self, spans: list[slice]) -> tuple[np.ndarray, np.ndarray]:
        """What `models.encoders.pool_mean_std` says of the rows that count in each span, and how
        many they are: (B, 2 * size) float32 and (B,) int64. Spans are cut at the last row."""
        starts = np.array([min(span.start, self.end) for span in spans]) - self._start
        ends = np.array([min(span.stop, self.end) for span in spans]) - self._start
        if len(spans) and starts.min() < 0:
            raise IndexError(f"row {starts.min() + self._start} was forgotten")
        sums = self._sums[ends] - self._sums[starts]
        count = sums[:, -1:].round()
        mean = sums[:, : self._size] / np.maximum(count, 1)
        squares = np.maximum(sums[:, self._size : -1] - mean * sums[:, : self._size], 0.0)
        std = np.sqrt(squares / np.maximum(count - 1, 1) + 1e-8) * (count > 0)
        return np.concatenate([mean, std], axis=1, dtype=np.float32), count[:, 0].astype(np.int64)


class SpanRows:
    """Rows of a recording as they are, from which any span that is kept is copied."""

    def __init__(self, size: int):
        self.end = 0  # rows appended so far
        self._rows = np.zeros((0, size), np.float32)
        self._counts = np.zeros(0, bool)

    def __len__(self) -> int:
        """Rows that are kept."""
        return len(self._rows)

    def append(self, rows: np.ndarray, counts: np.ndarray) -> None:
        """Goes on with rows (n, size), of which those count where `counts` (n,) is True."""
        self._rows = np.concatenate([self._rows, rows])
        self._counts = np.concatenate([self._counts, counts])
        self.end += len(rows)

    def forget(self, before: int) -> None:
        """Frees rows that lie before this one."""
        count = min(before, self.end) - (self.end - len(self._rows))
        if count > 0:
            self._rows, self._counts = self._rows[count:], self._counts[count:]

    def take(self, spans: list[slice]) -> tuple[np.ndarray, np.ndarray]:
        """The rows of each span, padded, and which of them count: (B, T, size) float32 and (B, T)
        bool. Spans are cut at the last row."""
        first = self.end - len(self._rows)
        starts = np.array([min(span.start, self.end) for span in spans]) - first
        ends = np.array([min(span.stop, self.end) for span in spans]) - first
        if starts.min() < 0:
            raise IndexError(f"row {starts.min() + first} was forgotten")
        places = starts[:, None] + np.arange(max(1, (ends - starts).max()))
        inside = places < ends[:, None]
        places = np.where(inside, places, 0)
        if not len(self._rows):
            return np.zeros((*places.shape, self._rows.shape[1]), np.float32), inside
        return self._rows[places], inside & self._counts[places]
