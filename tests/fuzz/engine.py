"""Fuzz one target in this process: with atheris, which sees what each input reaches, else by plain mutations."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import random
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HANG_S = 20
MEMORY_MB = 3000
LONGEST_INPUT = 20_000


def mutations(seeds: Sequence[bytes], words: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yield the seeds, and then for ever what becomes of them when pieces are changed, lost, doubled and mixed."""
    yield from seeds
    while True:
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 5)):
            start = chance.randint(0, len(data))
            end = min(start + chance.choice([0, 1, 4, 64]), len(data))
            other = chance.choice(seeds)
            put = chance.choice(
                [
                    b"",
                    chance.randbytes(chance.choice([1, 1, 4])),
                    chance.choice(words),
                    bytes(data[start:end]) * chance.choice([2, 50]),
                    other[chance.randint(0, len(other)) :],
                ]
            )
            data[start:end] = put
        yield bytes(data[:LONGEST_INPUT])


def main() -> None:
    """Fuzz for as long as told; a finding is printed, its input kept, and the exit status is not 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.engine", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where inputs are kept")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        targets = importlib.import_module("tests.fuzz.targets")
        fuzz = mutate
    else:
        with atheris.instrument_imports(include=["langchain_swarmlet_metrics"]):
            targets = importlib.import_module("tests.fuzz.targets")
        fuzz = _cover
    findings = options.folder / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    with targets.bench() as bench:
        name = options.target
        fuzz(
            bench.targets[name],
            bench.seeds[name],
            targets.words(),
            options.folder / _slug(name),
            findings,
            options.seconds,
        )


def _cover(target, seeds, words, corpus, findings, seconds) -> None:
    import atheris

    corpus.mkdir(exist_ok=True)
    for seed in seeds:
        (corpus / f"seed-{_digest(seed)}").write_bytes(seed)
    dictionary = corpus.with_suffix(".dict")
    dictionary.write_text("".join(f'"{_quoted(word)}"\n' for word in words))
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds}",
        f"-timeout={HANG_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={LONGEST_INPUT}",
        f"-artifact_prefix={findings}/{corpus.name}-",
        f"-dict={dictionary}",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, target)
    atheris.Fuzz()


def mutate(target, seeds, words, corpus, findings, seconds) -> None:
    """Fuzz a target for some seconds with mutations; what it raises ends the process."""
    end, runs = time.monotonic() + seconds, 0
    kept = findings / f"{corpus.name}-running"
    for data in mutations(seeds, words, random.Random()):
        kept.write_bytes(data)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            target(data)
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            kept.rename(findings / f"{corpus.name}-crash-{_digest(data)}")
            traceback.print_exc()
            sys.exit(77)
        finally:
            faulthandler.cancel_dump_traceback_later()
        runs += 1
        if time.monotonic() > end:
            break
    kept.unlink()
    print(f"Done {runs} runs")


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
