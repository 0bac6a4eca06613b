"""Fuzz the parsers of bytes from outside, guided by coverage.

    python -m tests.fuzz                        each parser for 30 seconds: ten minutes
    python -m tests.fuzz tar index --seconds 600

Each runs in a process of its own under Atheris (libFuzzer), which ends at the first input that gives an
unclear error, crashes, takes over 10 seconds or over 2 GiB. That input is kept in `corpus` beside this file,
where `test_fuzz.py` reads it from then on. `make fuzz` installs Atheris.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from tqdm import tqdm

CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:  # before anything is imported, which would not be instrumented then
        fuzz(sys.argv[2], int(sys.argv[3]))
    from tests.fuzz.parsers import PARSERS

    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parsers", nargs="*", choices=[[], *PARSERS], metavar="PARSER", help=f"some of {', '.join(PARSERS)}"
    )
    parser.add_argument("--seconds", type=int, default=30, help="for each parser")
    arguments = parser.parse_args()
    failed = False
    for name in tqdm(arguments.parsers or PARSERS, unit="parser"):
        command = [sys.executable, "-m", "tests.fuzz", "--inside", name, str(arguments.seconds)]
        with TemporaryDirectory() as work:  # libFuzzer ends its process without cleaning up
            environment = os.environ | {"TMPDIR": work}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", check=False
            )
        runs = re.findall(r"^#(\d+)", done.stderr, re.MULTILINE)
        tqdm.write(
            f"{name:16}{int(runs[-1]) if runs else 0:>10,} inputs  {'failed' if done.returncode else 'ok'}"
        )
        if done.returncode:
            failed = True
            tqdm.write(done.stderr[-3000:])
    return int(failed)


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one parser in this process, and end the process."""
    try:
        import atheris
    except ImportError:
        sys.exit("fuzzing needs Atheris: pip install atheris")
    with atheris.instrument_imports(include=["clippo"]):
        from tests.fuzz.parsers import PARSERS

    parser = PARSERS[name]
    work = Path(mkdtemp())
    seeds, folder = work / "seeds", work / "input"
    seeds.mkdir()
    folder.mkdir()
    for number, content in enumerate(parser.seeds()):
        (seeds / str(number)).write_bytes(content)
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=1048576"]
    options = [name, *limits, f"-artifact_prefix={CORPUS}/{name}-", str(seeds)]
    atheris.Setup(options, lambda data: parser(folder, data))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
