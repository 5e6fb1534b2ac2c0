"""A process that holds one system ready and runs it when told to.

    python -m tools.benchmarks.worker ORDER [compile]  # an `Order` as JSON

Requests come as lines of JSON on standard input, answers go to standard output. Between
them the process sleeps, so that its threads do not take cores from another's turn.

What is compiled on a CPU is compiled by another process first and taken from its cache,
as every start of a command but the first one does: a process that compiled by itself is
left with memory in which the program takes a tenth longer.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.benchmarks.order import Order, Prepared, pin

WARM_UP = 2  # calls
COMPILE = "compile"  # behind the order: and no more


def prepare(order: Order) -> Prepared:
    """Imports what the system needs, and only that."""
    if order.system == "jaxcodec":
        from tools.benchmarks import jax_side

        return jax_side.prepare(order)
    from tools.benchmarks import torch_side

    return torch_side.prepare(order)


def turn(work: Prepared, seconds: float) -> dict[str, Any]:
    """Calls until the time is up, at least one."""
    calls = 0
    begun, used = time.perf_counter(), time.process_time()
    while not calls or time.perf_counter() - begun < seconds:
        work.run()
        calls += 1
    return {
        "calls": calls,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - used,
    }


def perform(work: Prepared, request: dict[str, Any]) -> dict[str, Any]:
    """Answers a request."""
    match request:
        case {"turn": seconds}:
            return turn(work, seconds)
        case {"output": path}:
            np.save(path, work.output())
            return {}
        case {"memory": _}:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            scale = 1 if sys.platform == "darwin" else 1024
            return {"host": peak * scale, "device": work.device_peak()}
        case {"count": _}:
            return work.count()
        case {"peak_rate": _}:
            return {"peak_rate": work.peak_rate()}
    raise ValueError(f"request {request} is unknown")


def _compiled_before(order: Order, folder: str) -> dict[str, Any]:
    """Lets another process fill the compilation cache, and says what that took.

    Nothing is said if it failed: this process will fail the same way.
    """
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "tools.benchmarks.worker", order.to_json()]
    done = subprocess.run(
        [*command, COMPILE], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    if done.returncode:
        return {}
    return {"compile_seconds": json.loads(done.stdout)["compile_seconds"]}


def _answers() -> Callable[[dict[str, Any]], None]:
    """Takes standard output for itself: libraries print to standard error instead."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=out, flush=True)

    return answer


def main() -> int:
    answer = _answers()
    try:
        order = Order.from_json(sys.argv[1])
        pin(order.threads)
        if sys.argv[2:] == [COMPILE]:
            answer(prepare(order).about)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            known = {}
            if order.system == "jaxcodec" and order.device != "gpu":
                known = _compiled_before(order, folder)
            work = prepare(order)
        begun = time.perf_counter()
        work.run()
        first = time.perf_counter() - begun
        for _ in range(WARM_UP - 1):
            work.run()
        answer({**work.about, **known, "first_call_seconds": first})
        for line in sys.stdin:
            answer(perform(work, json.loads(line)))
    except Exception as error:
        # whoever gave the order names it in the table
        text = str(error).strip().splitlines()
        answer({"error": f"{type(error).__name__}: {text[0] if text else ''}"[:300]})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
