"""Reads SQLite files of ROS 2 messages, the older format of bags.

rosbags reads them as well, but refuses a whole file in which one message type lacks its definition.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from mbarl_ros.demos.mcap_file import McapFileError, Topic, definition_text


def read_sqlite(
    path: Path, wanted: Callable[[Topic], bool] = lambda _: True
) -> Iterator[tuple[Topic, int, bytes]]:
    """Yield (topic, log time in ns, serialised message) in the order of time.

    :param wanted: selects the topics to yield
    :raises McapFileError: not a bag, or damaged.
    """
    try:
        # immutable: nothing is written beside a file that belongs to somebody else. It hides a log.
        immutable = int(not log_beside(path).exists())
        address = f'file:{quote(str(path.absolute()))}?mode=ro&immutable={immutable}'
        with closing(sqlite3.connect(address, uri=True)) as database:
            database.execute('PRAGMA trusted_schema = OFF')
            topics = {key: topic for key, topic in _topics(database) if wanted(topic)}
            ids = ', '.join(str(int(key)) for key in topics)
            rows = database.execute(
                'SELECT topic_id, timestamp, data FROM messages '
                f'WHERE topic_id IN ({ids}) ORDER BY timestamp'
            )
            for key, log, data in rows:
                if type(log) is not int or type(data) is not bytes:
                    raise McapFileError('a message is not a time and bytes')
                yield topics[key], log, data
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise McapFileError(
            f'{path}: is damaged or no SQLite bag ({error}); `sqlite3 {path.name} .recover` may '
            'save what is in it'
        ) from error


def log_beside(path: Path) -> Path:
    """Write-ahead log of an SQLite file, which holds its last messages if its recorder died."""
    return path.with_name(f'{path.name}-wal')


def _topics(database: sqlite3.Connection) -> Iterator[tuple[int, Topic]]:
    """Topics by their id. Definitions are in files of ROS 2 Iron and newer only."""
    definitions: dict[str, str] = {}
    tables = {name for (name,) in database.execute('SELECT name FROM sqlite_master')}
    if 'message_definitions' in tables:
        rows = database.execute(
            'SELECT topic_type, encoding, encoded_message_definition FROM message_definitions'
        )
        definitions = {kind: definition_text(kind, syntax, text) for kind, syntax, text in rows}
    rows = database.execute('SELECT id, name, type, serialization_format FROM topics')
    for key, *texts in rows:
        if type(key) is not int or not all(type(text) is str for text in texts):
            raise McapFileError('a topic is not a number, a name, a type and an encoding')
        name, kind, encoding = texts
        yield key, Topic(name, kind, definitions.get(kind, ''), encoding)
