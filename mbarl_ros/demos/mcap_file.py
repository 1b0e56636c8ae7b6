"""Reads MCAP files of ROS 2 messages in one pass, also torn and untrusted ones.

rosbags reads complete files only; this reader also reads those of killed recorders. It limits the
size of unpacked chunks, so that a malicious file cannot fill memory.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import StreamReader

MAX_CHUNK = 256 << 20
"""Bytes that one chunk may unpack to; rosbag2's default is below 1 MiB."""
MAX_MESSAGE = 64 << 20
"""Bytes of one message; images are not used, but a file may contain them."""
_MAGIC = b'\x89MCAP0\r\n'
_MESSAGE = struct.Struct('<BQHIQQ')
_DEFINITIONS = {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel}


class McapFileError(ValueError):
    """A file that is damaged or not MCAP; the message says why."""


class Topic(NamedTuple):
    """A channel: topic name, type ``package/msg/Name`` and definition of the message."""

    name: str
    type: str
    definition: str


def read_mcap(
    path: Path, wanted: Callable[[Topic], bool] = lambda _: True, *, torn: bool = False
) -> Iterator[tuple[Topic, int, bytes]]:
    """Yield (topic, log time in ns, serialised message) in the order of the file.

    :param wanted: selects the topics to yield
    :param torn: accept a file that ends in the middle of a record
    :raises McapFileError: not an MCAP file, damaged, or a chunk above the size limit.
    """
    schemas: dict[int, Schema] = {}
    topics: dict[int, Topic | None] = {}
    try:
        with path.open('rb') as file:
            reader = StreamReader(file, emit_chunks=True, record_size_limit=MAX_CHUNK)
            records = reader.records
            while True:
                try:
                    record = next(records)
                    if isinstance(record, Chunk):
                        yield from _in_chunk(_unpacked(record), schemas, topics, wanted)
                    elif isinstance(record, Message):
                        topic = topics[record.channel_id]
                        if topic is not None:
                            yield topic, record.log_time, record.data
                    else:
                        _define(record, schemas, topics, wanted)
                except StopIteration:
                    return
                except Exception:
                    if torn and not file.read(1):  # the reader reached the end of the file
                        return
                    raise
    except McapFileError:
        raise
    except Exception as error:  # damaged files make the parsers raise any exception
        raise McapFileError(f'{path}: is damaged or no MCAP file ({error!r})') from error


def is_torn(path: Path) -> bool:
    """Whether an MCAP file lacks its end, because its recorder was killed."""
    with path.open('rb') as file:
        file.seek(max(path.stat().st_size - len(_MAGIC), 0))
        return path.suffix == '.mcap' and file.read() != _MAGIC


def _define(
    record: object,
    schemas: dict[int, Schema],
    topics: dict[int, Topic | None],
    wanted: Callable[[Topic], bool],
) -> None:
    if isinstance(record, Schema):
        schemas[record.id] = record
    elif isinstance(record, Channel) and record.id not in topics:
        schema = schemas[record.schema_id]
        topic = Topic(record.topic, schema.name, schema.data.decode())
        topics[record.id] = topic if wanted(topic) else None


def _in_chunk(
    data: bytes,
    schemas: dict[int, Schema],
    topics: dict[int, Topic | None],
    wanted: Callable[[Topic], bool],
) -> Iterator[tuple[Topic, int, bytes]]:
    # Ten times as fast as the loop of the mcap package.
    at = 0
    while at < len(data):
        opcode, length = struct.unpack_from('<BQ', data, at)
        end = at + 9 + length
        if end > len(data):
            raise McapFileError('a record is longer than its chunk')
        if opcode == Opcode.MESSAGE:
            _, _, channel, _, log_time, _ = _MESSAGE.unpack_from(data, at)
            topic = topics[channel]
            if topic is not None:
                yield topic, log_time, data[at + _MESSAGE.size : end]
        elif opcode in _DEFINITIONS:
            record = _DEFINITIONS[opcode].read(ReadDataStream(io.BytesIO(data[at + 9 : end])))
            _define(record, schemas, topics, wanted)
        at = end


def _unpacked(chunk: Chunk) -> bytes:
    size = chunk.uncompressed_size
    if size > MAX_CHUNK:
        raise McapFileError(f'a chunk claims {size} bytes, more than {MAX_CHUNK}')
    if chunk.compression == 'zstd':
        # The frame may hold more than the chunk claims: one byte more is enough to see that.
        reader = zstandard.ZstdDecompressor().stream_reader(chunk.data)
        data = reader.read(size + 1)
    elif chunk.compression == 'lz4':
        data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=size + 1)
    elif chunk.compression == '':
        data = chunk.data
    else:
        raise McapFileError(f"a chunk is compressed by '{chunk.compression}'")
    if len(data) != size:
        raise McapFileError(f'a chunk does not unpack to the {size} bytes that it claims')
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise McapFileError('the checksum of a chunk is wrong')
    return data
