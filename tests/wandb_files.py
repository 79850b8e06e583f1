"""What Weights & Biases has written, read back."""

import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_records(file: Path) -> list[Any]:
    """All records of a run's own file, once the last is written: W&B's writer is another process."""
    from wandb.proto import wandb_internal_pb2

    for _ in range(100):
        found = []
        for data in records(file.read_bytes()):
            found.append(wandb_internal_pb2.Record())
            found[-1].ParseFromString(data)
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{file} is not closed")


def read_history(file: Path) -> dict[str, list[tuple[int, object]]]:
    """The (step, value) pairs of every key in a run's own file."""
    found = defaultdict(list)
    for record in read_records(file):
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for key, value in items.items():
            found[key].append((items.get("trainer/global_step"), value))
    return found


def records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, in which a record may be cut into pieces."""
    at, whole = 7, b""  # after W&B's own header
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # all of a record, or its last piece
            yield whole
            whole = b""
