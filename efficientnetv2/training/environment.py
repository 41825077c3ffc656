"""Environment of a run in `environment.json`: library versions, commit and hardware."""

import json
import os
import platform
import subprocess

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.common.files import atomic_write

FILE_NAME = "environment.json"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def environment() -> dict[str, str]:
    """Returns versions, the commit of this code if it is in git, devices and processor."""
    memory = _first_line_with("/proc/meminfo", "MemTotal")
    facts = {
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "Keras": keras.__version__,
        "NumPy": np.__version__,
        "commit": _commit(),
        **hardware(),
        "memory": f"{int(memory.split()[0]) / 2**20:.0f} GiB" if memory else "",
        "system": platform.platform(),
    }
    return {name: value for name, value in facts.items() if value}


def hardware() -> dict[str, str]:
    """Returns the devices, the processor and its cores."""
    return {
        "devices": ", ".join(_devices()),
        "processor": _first_line_with("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": str(os.cpu_count()),
    }


def save_environment(model_dir: str) -> None:
    """Appends this process' environment to those of a run if it differs from the last one.

    Raises: UserError if the file cannot be written.
    """
    known, present = saved_environments(model_dir), environment()
    if not known or known[-1] != present:
        content = json.dumps([*known, present], indent=1)
        atomic_write(os.path.join(model_dir, FILE_NAME), content)


def saved_environments(model_dir: str) -> list[dict[str, str]]:
    """Returns the environments that a run was trained in, oldest first."""
    path = os.path.join(model_dir, FILE_NAME)
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _devices() -> list[str]:
    names = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        names.append(details.get("device_name", device.name.removeprefix("/physical_device:")))
    return names


def _commit() -> str:
    """Returns the commit, with "-dirty" if files differ from it; empty outside of git."""
    if not os.path.exists(os.path.join(_ROOT, ".git")):
        return ""
    command = ["git", "-C", _ROOT, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _first_line_with(path: str, name: str) -> str:
    """Returns the value of `name` in a Linux system file; empty on other systems."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        values = [line.partition(":")[2].strip() for line in file if line.startswith(name)]
    return values[0] if values else ""
