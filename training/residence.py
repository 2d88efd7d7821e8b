"""Residence: where the pictures of the training set lie while it is trained on."""

import numpy as np
import torch

from utils.dataset import ClipDataset

MAX_PART = 0.5  # of the GPU's free memory that they may take; the rest is for training
BLOCK_ROWS = 4096  # copied at once


class RowStore:
    """Pictures of all recordings in one tensor, whose `get` gives their row numbers instead.

    A batch of row numbers is a few hundred bytes, and its pictures are gathered where they lie:
    `pictures[batch.video]`. Row 0, with which batches are padded, is a black one.
    """

    def __init__(self, dataset: ClipDataset, device: torch.device):
        self._rows: dict[str, np.ndarray] = {}
        self.pictures = torch.zeros((0,))
        store, column, count = dataset.video_store, dataset.video_column, 1
        for key in dict.fromkeys(clip.key for clip in dataset.clips):
            length = len(store.get(key, column))
            self._rows[key] = np.arange(count, count + length)
            count += length
        first = store.get(dataset.clips[0].key, column)
        kind = torch.from_numpy(np.empty(0, first.dtype)).dtype
        self.pictures = torch.zeros((count, *first.shape[1:]), dtype=kind, device=device)
        for key, rows in self._rows.items():
            array = store.get(key, column)
            for start in range(0, len(array), BLOCK_ROWS):
                block = torch.from_numpy(np.array(array[start : start + BLOCK_ROWS]))
                self.pictures[rows[start] : rows[start] + len(block)] = block.to(device)

    def get(self, key: str, column: str) -> np.ndarray:
        """(rows,) int64."""
        return self._rows[key]


def size_bytes(dataset: ClipDataset) -> int:
    """Of the pictures of all recordings with a clip in the dataset."""
    arrays = (
        dataset.video_store.get(key, dataset.video_column)
        for key in {clip.key for clip in dataset.clips}
    )
    return sum(array.nbytes for array in arrays)


def settle(dataset: ClipDataset, device: torch.device) -> tuple[ClipDataset, str, RowStore | None]:
    """The dataset as it is best read for training on `device`, where that is, and its rows.

    In the memory of a GPU where they take up to half of what is free, else where they are: files
    mapped into memory, which the system keeps there while it has room.
    """
    size = size_bytes(dataset)
    if device.type == "cuda" and size <= MAX_PART * torch.cuda.mem_get_info(device)[0]:
        rows = RowStore(dataset, device)
        return dataset.read_from(rows, dataset.video_column), f"{_show(size)} on the GPU", rows
    copies = ", copied from pinned memory" if device.type == "cuda" else ""
    return dataset, f"{_show(size)} in memory-mapped files{copies}", None


def _show(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
