"""What keeps the workers of a study apart: a locked file on a host, a lock in PostgreSQL on all.

Databases of other servers have locks of other kinds, none of which is used.
"""

import contextlib
import fcntl
from collections.abc import Iterator

import sqlalchemy

_TAKE = (
    "SET LOCAL lock_timeout = '60s'",
    "SELECT pg_advisory_xact_lock(hashtext('efficientnetv2-search'))",
)


class StudyLock:
    """One worker holds it.

    Args:
        file: a file of this host, which is made.
        url: of the database, as SQLAlchemy has it.

    Raises: ImportError or SQLAlchemyError if there is no driver for it.
    """

    def __init__(self, file: str, url: str):
        self._file = file
        # Without a pool: whatever ends a connection gives back its lock.
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Waits for it, and gives it back in the end.

        Raises: SQLAlchemyError if the database fails, or has another hold it for a minute.
        """
        with open(self._file, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with self._held_in_database():
                yield

    @contextlib.contextmanager
    def _held_in_database(self) -> Iterator[None]:
        if self._engine.dialect.name != "postgresql":
            yield
            return
        with self._engine.connect() as connection:
            for statement in _TAKE:
                connection.execute(sqlalchemy.text(statement))
            yield
