"""From the bytes of an xmodel file to a protobuf message, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from edgesearch.board_eval.xmodel._size import check_structure
from edgesearch.board_eval.xmodel._wire import graph_message
from edgesearch.errors import XmodelError

#: Files larger than this are not read: the largest classifiers of AMD's Model Zoo are below 300 MB uncompiled.
MAX_FILE_BYTES = 1 << 30
MAX_OPERATIONS = 50_000


def parse_message(path: Path) -> Any:
    """The message; raises OSError, and XmodelError for what is too large or no message of XIR."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise XmodelError(f"it has {size} bytes; files of up to {MAX_FILE_BYTES} bytes are read")
    data = path.read_bytes()
    check_structure(data)
    message = graph_message()()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise XmodelError("its bytes are not a protobuf message of XIR") from error
    if not message.op_node:
        what = "its bytes hold no operation of XIR" if data else "it is empty"
        raise XmodelError(f"{what}; give a file that edgesearch or Vitis AI wrote, NAME_int.xmodel or NAME.xmodel")
    if len(message.op_node) > MAX_OPERATIONS:
        raise XmodelError(f"it holds {len(message.op_node)} operations, expected at most {MAX_OPERATIONS}")
    return message
