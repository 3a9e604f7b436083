"""Fuzz one target in this process: with atheris, which sees what each input reaches, else by plain mutations."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import random
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HANG_S = 20
MEMORY_MB = 3000
LONGEST_INPUT = 20_000
HALF = 0.5
ODD_TEXTS = [
    *(
        "",
        "\nExecution time: 1ms\n",
        "\u2028job 99  success",
        "\x1b[2J\r",
        "\0",
        "x" * 3000,
        "../",
        "lost",
        "running",
        "9" * 30,
    ),
    *(
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999Z",
        "2025-12-15\n04:08:08",
        "2025-12-15T04:08:08.123456Z",
    ),
]
ODD_VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2,
    0.5,
    2**53,
    2**53 + 1,
    2**63,
    10**30,
    10**4000,
    [],
    {},
    [[[]]],
    {"a": {"b": "c"}},
]


def mutations(seeds: Sequence[bytes], words: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yield the seeds, and for ever what becomes of them when pieces, or values of JSON, are changed."""
    yield from seeds
    while True:
        data = chance.choice(seeds)
        for _ in range(chance.randint(1, 4)):
            data = rewritten(data, chance) or _scrambled(data, chance.choice(seeds), words, chance)
        yield data[:LONGEST_INPUT]


def rewritten(data: bytes, chance: random.Random) -> bytes | None:
    """Change one value in one line of JSON, or in a text of JSON; None where there is none, and half of the time."""
    lines = data.splitlines() if data.count(b"\n{") else [data]
    number = chance.randrange(len(lines)) if lines else 0
    try:
        value = json.loads(lines[number]) if chance.random() < HALF else None
    except (ValueError, IndexError, RecursionError):
        return None
    places = list(_places(value))
    if not places:
        return None
    container, key = chance.choice(places)
    odd = chance.choice([*ODD_TEXTS, *ODD_VALUES])
    is_text = isinstance(container[key], str) and isinstance(odd, str)
    container[key] = container[key] + odd if is_text and chance.random() < HALF else odd
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in a JSON value: what holds it, and under which key."""
    if isinstance(value, dict | list):
        for key in list(value if isinstance(value, dict) else range(len(value))):
            yield value, key
            yield from _places(value[key])


def _scrambled(data: bytes, other: bytes, words: Sequence[bytes], chance: random.Random) -> bytes:
    """Change, drop or double a piece, or put a word or a piece of another input in."""
    start = chance.randint(0, len(data))
    end = min(start + chance.choice([0, 1, 4, 64]), len(data))
    put = chance.choice(
        [
            b"",
            chance.randbytes(chance.choice([1, 1, 4])),
            chance.choice(words),
            data[start:end] * chance.choice([2, 50]),
            other[chance.randint(0, len(other)) :],
        ]
    )
    return data[:start] + put + data[end:]


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

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        changed = rewritten(data, random.Random(seed))
        return atheris.Mutate(data, max_size) if changed is None else changed[:max_size]

    atheris.Setup(arguments, target, custom_mutator=mutated)
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
