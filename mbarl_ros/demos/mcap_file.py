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
from typing import Any, BinaryIO, NamedTuple

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Metadata, Schema

MAX_CHUNK = 256 << 20
"""Bytes that one chunk may unpack to; rosbag2's default is below 1 MiB."""
MAX_MESSAGE = 64 << 20
"""Bytes of one message; images are not used, but a file may contain them."""
CDR = 'cdr'
"""Encoding of the messages of ROS 2."""
SEPARATOR = '=' * 80 + '\n'
"""Stands between the parts of a definition."""
IDL_START = f'{SEPARATOR}IDL: '
_MAGIC = b'\x89MCAP0\r\n'
_MESSAGE = struct.Struct('<BQHIQQ')
_HEAD = struct.Struct('<BQ')
_USED = {Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.CHUNK}
_DEFINITIONS = {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel}


class McapFileError(ValueError):
    """A file that is damaged or not MCAP; the message says why."""


class _TornError(Exception):
    """A file that ends too early."""


class Topic(NamedTuple):
    """A channel: topic name, type ``package/msg/Name`` and definition of the message.

    A definition in IDL begins with ``IDL_START``. ``encoding`` is that of the messages: ROS 2
    writes ``cdr``. What is not of ROS has any type, and no definition.
    """

    name: str
    type: str
    definition: str
    encoding: str = CDR


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
    size = path.stat().st_size
    try:
        with path.open('rb') as file:
            for opcode, record in _records(file, size):
                try:
                    data = _unpacked(record) if opcode == Opcode.CHUNK else record
                    yield from _in_chunk(data, schemas, topics, wanted)
                except Exception:
                    if torn and file.tell() == size:  # a last record of which not all was written
                        return
                    raise
    except _TornError as error:
        if not torn:
            raise McapFileError(f'{path}: is damaged or torn ({error})') from error
    except McapFileError:
        raise
    except Exception as error:  # damaged files make the parsers raise any exception
        raise McapFileError(f'{path}: is damaged or no MCAP file ({error!r})') from error


def _records(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Opcode and bytes of the records that matter, up to the end of the data.

    The mcap package parses all of them; the indices, which nobody needs here, take it longer than
    the rest.

    :raises _TornError: the file ends before its footer.
    """
    magic = file.read(len(_MAGIC))
    if not _MAGIC.startswith(magic):
        raise McapFileError('it does not begin like an MCAP file')
    while True:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise _TornError('it ends without a footer')
        opcode, length = _HEAD.unpack(head)
        wanted = opcode in _USED
        if wanted and length > MAX_CHUNK:
            raise McapFileError(f'a record claims {length} bytes, more than {MAX_CHUNK}')
        if file.tell() + length > size:
            raise _TornError('it ends within a record')
        if opcode == Opcode.FOOTER:
            return
        if wanted:
            yield opcode, head + file.read(length)
        else:
            file.seek(length, io.SEEK_CUR)


def read_metadata(path: Path, name: str) -> dict[str, str]:
    """Metadata ``name`` at the beginning of a file, before its messages; empty: there is none."""
    try:
        with path.open('rb') as file:
            file.seek(len(_MAGIC))
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                opcode, length = _HEAD.unpack(head)
                if opcode in (Opcode.CHUNK, Opcode.MESSAGE) or length > MAX_MESSAGE:
                    break
                record = head + file.read(length)
                if opcode == Opcode.METADATA:
                    found: Metadata = _parsed(Metadata, record)
                    if found.name == name:
                        return found.metadata
    except Exception:  # damaged files make the parser raise any exception
        return {}
    return {}


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
        topic = _topic(record, schemas.get(record.schema_id))
        topics[record.id] = topic if wanted(topic) else None


def _topic(channel: Channel, schema: Schema | None) -> Topic:
    """A channel as a topic. Nothing is parsed: most channels are of no interest to the caller."""
    if schema is None:
        return Topic(channel.topic, '', '', channel.message_encoding)
    text = schema.data.decode(errors='replace')
    kind = full_type(schema.name)
    definition = definition_text(kind, schema.encoding, text)
    return Topic(channel.topic, kind, definition, channel.message_encoding)


def definition_text(kind: str, syntax: str, text: str) -> str:
    """Definition of a :class:`Topic`; ``syntax`` is what a bag calls the encoding of its schema."""
    if syntax == 'ros2idl' and not text.startswith(IDL_START):
        return f'{IDL_START}{kind}\n{text}'
    return text if syntax in ('ros2msg', 'ros2idl', 'ros1msg') else ''


def full_type(kind: str) -> str:
    """``package/msg/Name``, also for the short form ``package/Name`` that some recorders write."""
    package, slash, name = kind.partition('/')
    return f'{package}/msg/{name}' if slash and '/' not in name else kind


def _in_chunk(
    data: bytes,
    schemas: dict[int, Schema],
    topics: dict[int, Topic | None],
    wanted: Callable[[Topic], bool],
) -> Iterator[tuple[Topic, int, bytes]]:
    # Ten times as fast as the loop of the mcap package.
    at = 0
    while at < len(data):
        opcode, length = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if end > len(data):
            raise McapFileError('a record is longer than its chunk')
        if opcode == Opcode.MESSAGE:
            _, _, channel, _, log_time, _ = _MESSAGE.unpack_from(data, at)
            topic = topics[channel]
            if topic is not None:
                yield topic, log_time, data[at + _MESSAGE.size : end]
        elif opcode in _DEFINITIONS:
            record = _parsed(_DEFINITIONS[opcode], data[at:end])
            _define(record, schemas, topics, wanted)
        at = end


def _parsed(kind: Any, record: bytes) -> Any:
    return kind.read(ReadDataStream(io.BytesIO(record[_HEAD.size :])))


def _unpacked(record: bytes) -> bytes:
    """The records in a chunk."""
    chunk: Chunk = _parsed(Chunk, record)
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
