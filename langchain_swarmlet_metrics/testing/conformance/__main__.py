"""Write the conformance report.

``python -m langchain_swarmlet_metrics.testing.conformance --out docs/conformance.md``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from langchain_swarmlet_metrics.testing.conformance.contenders import CONTENDERS
from langchain_swarmlet_metrics.testing.conformance.report import render, write_section
from langchain_swarmlet_metrics.testing.conformance.runner import run_contender
from langchain_swarmlet_metrics.testing.conformance.situations import SITUATIONS


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments ask for; 1 when this project's own handler was wrong somewhere."""
    parser = argparse.ArgumentParser(
        prog="conformance", description="Put LangChain handlers through the same situations."
    )
    parser.add_argument("--out", type=Path, help="the page to write into; by default the report is printed")
    parser.add_argument(
        "--only", nargs="+", metavar="HANDLER", help="handlers to run, by name; by default all installed"
    )
    parser.add_argument("--situations", nargs="+", metavar="NAME", help="situations to play, by name; by default all")
    options = parser.parse_args(arguments)
    situations = [one for one in SITUATIONS if not options.situations or one.name in options.situations]
    asked = [one for one in CONTENDERS if not options.only or one.name in options.only]
    columns = []
    for contender in asked:
        if contender.version is not None:
            sys.stderr.write(f"{contender.name} {contender.version} ...\n")
            columns.append(run_contender(contender, [one.name for one in situations]))
    text = render(columns, situations, [one for one in asked if one.version is None])
    if options.out is None:
        sys.stdout.write(text + "\n")
    else:
        write_section(options.out, "conformance", text)
    ours = [found for column in columns if column.contender is CONTENDERS[0] for found in column.findings]
    return 1 if any(finding.verdict == "wrong" for finding in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
