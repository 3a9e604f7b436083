"""A process that reads what a crowd writes, all the time, as a supervisor does, until its standard input ends."""

from __future__ import annotations

import json
import random
import sys
import threading

from langchain_swarmlet_metrics import WorkerRunner


def main(root: str) -> None:
    """Read until told to stop, and say how often, and what was wrong.

    Args:
        root: the folder of the worker folders.
    """
    store, tools = (runner := WorkerRunner(root)).store, {tool.name: tool for tool in runner.supervisor_tools()}
    done, rng = threading.Event(), random.Random(0)
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    told = {"reads": 0, "wrong": []}
    while not done.is_set():
        found = store.list(limit=50)
        job = {"job_id": rng.choice(found).job_id} if found else {"job_id": 1}
        answers = [
            tools["list_workers"].invoke({"limit": 50}),
            tools["read_worker_metrics"].invoke(job),
            tools["get_worker_metadata"].invoke(job),
            tools["read_worker_result"].invoke(job),
            tools["grep_workers"].invoke({"pattern": rng.choice(["no route", "crowd", "is not there"])}),
        ]
        told["reads"] += len(answers)
        if found:
            told["wrong"] += [answer[:500] for answer in answers if "Error" in answer or "lost" in answer]
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
