"""Why the process of a trial failed."""

import signal

_OUT_OF_MEMORY = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "MemoryError", "std::bad_alloc")
_NOT_FINITE = ("the loss is ", "the gradient's norm ")


def reason_of_end(status: int, log: str) -> str:
    """Why a process failed, in one line that starts with "diverged", "killed" and the like."""
    lines = [line for line in (line.strip() for line in log.splitlines()) if line]
    told = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "killed: by SIGKILL, which is what a lack of memory ends with"
    if any(word in log for word in _OUT_OF_MEMORY):
        return "out of memory: " + next(
            line[:200] for line in reversed(lines) if any(word in line for word in _OUT_OF_MEMORY)
        )
    if all(word in told for word in _NOT_FINITE):
        return f"diverged: {told.removeprefix('error: ')}"
    if status < 0:
        return f"killed: by {signal.Signals(-status).name}"
    return told or f"error: status {status}, {lines[-1][:200] if lines else 'nothing was logged'}"


def kind_of(reason: str) -> str:
    """What reasons that are alike have in common."""
    kind, _, rest = reason.partition(": ")
    return rest if kind == "error" else kind
