"""Files that a data set names more than once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from lightning_finetune.data.block.labels import Labels
from lightning_finetune.data.block.paths import FilePaths
from lightning_finetune.data.block.splits import Splits
from lightning_finetune.errors import first_ten


def repeated(files: FilePaths, splits: Splits, labels: Labels) -> Iterator[str]:
    """Warnings of files that are named more than once and labelled in two ways, or lie in two splits.

    Args:
        files: The images.
        splits: What each is for.
        labels: What each shows.
    """
    groups = [*_groups(files)]
    if labels.names() is not None:
        torn = [files[rows[0]] for rows in groups if len({labels.values[row] for row in rows}) > 1]
        if torn:
            yield (
                f"{len(torn)} images are named in several rows with different labels, each of which is learned; if "
                f"they have several labels, join these in one row (label_delim):{first_ten(torn)}"
            )
    shared = [files[rows[0]] for rows in groups if len(set(splits[rows].tolist())) > 1]
    if shared:
        yield (
            f"{len(shared)} images are named in several rows that are in different splits, so that validation looks "
            f"better than it is:{first_ten(shared)}"
        )


def _groups(files: FilePaths) -> Iterator[list[int]]:
    """The positions of each file that is named more than once."""
    hashes = np.fromiter(map(hash, files.texts()), np.int64, len(files))  # a set of a million texts takes 100 MB
    _, group, count = np.unique(hashes, return_inverse=True, return_counts=True)
    places: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(count[group] > 1).tolist():
        places[str(files[row])].append(row)
    return (rows for rows in places.values() if len(rows) > 1)
