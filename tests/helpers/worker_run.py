"""Runs of main.py with several worker processes on this machine, or with none.

    python tests/helpers/worker_run.py SIGNAL STEP FLAGS

is main.py with FLAGS, in a process that sends itself a signal before it makes step STEP.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 500  # After which a process is taken to hang; it takes about 20 alone on a machine.
SETTINGS = {
    "train.stages": 2,
    "train.epochs": 4,
    "train.batch_size": 8,
    "train.isize": 32,
    "data.ibase": 24,
    "data.mixup_alpha": 0,  # Images are mixed with others of the same worker.
    "data.augname": "none",  # Takes long to trace.
    "train.lr_base": 0.5,
    "train.lr_warmup_epoch": 1,
    "train.ema_decay": 0.9,
    "eval.isize": 32,
    "eval.batch_size": 4,
    "runtime.log_step_count_steps": 4,
    "runtime.checkpoint_steps": 4,
}


def make_photos(folder: pathlib.Path) -> None:
    """An architecture, and images: 24 to train on, 9 and 11 to evaluate, no multiple of a batch."""
    import image_folder
    import tiny_run

    from efficientnetv2 import save_spec

    spec = dataclasses.replace(tiny_run.SPEC, name="small")
    save_spec(spec, str(folder / "small.json"))
    photos = folder / "photos"
    image_folder.make_images(photos / "train", {"cat": 10, "dog": 14})
    image_folder.make_images(photos / "val", {"cat": 4, "dog": 5}, first=100)
    image_folder.make_images(photos / "test", {"cat": 5, "dog": 6}, first=200)


class Run:
    """Processes of one run in `folder`/`name`; on leaving they are gone.

    `workers`: how many processes; 0: one without TF_CONFIG. `signals`: {process: (number, step)},
    what it sends itself before which step.
    """

    def __init__(self, folder: pathlib.Path, name: str, workers: int = 0, signals=None):
        self.model_dir = folder / name
        flags = ["--mode=traineval", f"--strategy={'multiworker' if workers else 'one'}"]
        flags += [f"--model_name={folder / 'small.json'}", "--dataset_cfg=folder"]
        flags += [f"--data_dir={folder / 'photos'}", f"--model_dir={self.model_dir}"]
        flags += ["--hparam_str=" + ",".join(f"{key}={v}" for key, v in SETTINGS.items())]
        self.addresses = [f"localhost:{port}" for port in free_ports(workers)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.processes = []
        for index in range(max(workers, 1)):
            program = [str(ROOT / "main.py")]
            if index in (signals or {}):
                number, step = signals[index]
                program = [__file__, str(int(number)), str(step)]
            variables = {key: v for key, v in os.environ.items() if key != "TF_CONFIG"}
            if workers:
                variables["TF_CONFIG"] = tf_config(self.addresses, index)
            command = [sys.executable, *program, *flags]
            self.processes.append(subprocess.Popen(command, env=variables, cwd=folder, **pipes))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait(self) -> list[subprocess.CompletedProcess]:
        """Returns what each process ended with."""
        found = []
        for process in self.processes:
            out, err = process.communicate(timeout=SECONDS)
            found.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
        return found


def tf_config(addresses: list[str], index: int) -> str:
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


def free_ports(count: int) -> list[int]:
    """Returns ports that nothing listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


def main_with_a_signal(number: int, step: int, flags: list[str]) -> None:
    sys.path[:0] = [str(ROOT)]
    from efficientnetv2.cli import app, train

    def train_and_signal():
        from efficientnetv2.common.tf_import import import_tensorflow

        import_tensorflow()
        from efficientnetv2.training.trainer import StageSteps

        make = StageSteps.make

        def made(steps, at, *arguments):
            if at == step:
                os.kill(os.getpid(), number)
            return make(steps, at, *arguments)

        StageSteps.make = made
        train.train()

    app.MODES["traineval"] = train_and_signal
    sys.argv = ["efficientnetv2", *flags]
    app.run()


if __name__ == "__main__":
    main_with_a_signal(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
