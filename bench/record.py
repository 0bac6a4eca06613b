"""The file of results of a run on a GPU: whole after every case, so that nothing measured is ever lost.

Beside the rows of benchmarks (see report.py) it lists the benchmarks that did not run and why, and the tests.
A case that is still to come is in it as "out of time", and one that runs as "the process ended while it ran",
until it has ended: whenever the run dies, the file says the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from clippo.results import Row, read_results, write_results

__all__ = ["OUT_OF_TIME", "Record", "count_not_run"]

OUT_OF_TIME = "out of time"
ENDED = "the process ended while it ran"


class Record:
    """The cases of a run, by their names, and the file that holds them.

    Args:
        path: an existing file of results. This object alone writes to it while it is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        results = read_results(path)
        self.provenance = results.provenance
        listed = (results.rows, *(results.more.get(name, []) for name in ("not_run", "tests")))
        self.cases: dict[str, Row] = {row["case"]: row for rows in listed for row in rows}

    @property
    def rows(self) -> list[Row]:
        """The benchmarks that ran."""
        return [row for row in self.cases.values() if "op" not in row and "not_run" not in row]

    @property
    def not_run(self) -> list[Row]:
        """The benchmarks that did not: `test`, `name` of the contestant, `case`, and in `not_run` why."""
        return [row for row in self.cases.values() if "op" not in row and "not_run" in row]

    @property
    def tests(self) -> list[Row]:
        """The tests: `op`, `case`, and `outcome`, or in `not_run` why it has none."""
        return [row for row in self.cases.values() if "op" in row]

    @property
    def num_done(self) -> int:
        return sum(self.is_done(case) for case in self.cases)

    def is_done(self, case: str) -> bool:
        """Whether a case has run, or has ended its process."""
        return case in self.cases and self.cases[case].get("not_run") != OUT_OF_TIME

    def plan(self, rows: Iterable[Row]) -> None:
        """Add cases that are to come: what is known of each."""
        for row in rows:
            self.cases[row["case"]] = {**row, "not_run": OUT_OF_TIME}
        self.write()

    def begin(self, case: str) -> None:
        """Note that a case runs."""
        self.cases[case]["not_run"] = ENDED
        self.write()

    def not_run_because(self, case: str, reason: str) -> None:
        """Note that a case did not run."""
        self.cases[case]["not_run"] = reason
        self.write()

    def keep(self, case: str, result: Row) -> None:
        """Keep what a case gave."""
        known = {key: value for key, value in self.cases.pop(case).items() if key != "not_run"}
        self.cases[case] = known | result  # after those before
        self.write()

    def stopped(self, reason: str) -> None:
        """Note why the case did not end that ran when its process did, if there is one."""
        for row in self.cases.values():
            if row.get("not_run") == ENDED:
                row["not_run"] = reason
        self.write()

    def write(self) -> None:
        write_results(self.path, self.provenance, self.rows, not_run=self.not_run, tests=self.tests)


def count_not_run(rows: Iterable[Row]) -> list[Row]:
    """How many cases of each contestant did not run, for each reason."""
    counts = Counter((row["test"], row["name"], row["not_run"]) for row in rows)
    return [
        {"test": test, "name": name, "not_run": reason, "cases": cases}
        for (test, name, reason), cases in counts.items()
    ]
