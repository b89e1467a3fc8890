"""Writes an outcome to the terminal, files and annotations. Whatever happens, whoever waits for one gets it."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from hograd_bench.gate.outcome import Finding, Outcome, UsageError
from hograd_bench.gate.output import formats


def _page(outcome: Outcome) -> str:
    from hograd_bench.gate.output import page  # templates and frames: for those who asked for it

    return page.html(outcome)


_MAKERS = {
    "--json-file": formats.to_json, "--junit": formats.junit, "--markdown": formats.markdown, "--html": _page,
}  # fmt: skip


@dataclass
class OutputWriter:
    """Where outcomes go.

    Attributes:
        as_json: print JSON instead of text.
        files: option -> file, for those that were given.
        github: also annotations, and the job's summary.
    """

    as_json: bool
    files: dict[str, Path]
    github: bool

    def prepare(self) -> None:
        """Make the folders of the files before minutes are spent on what goes there; an earlier outcome goes.

        Raises:
            UsageError: a path is a folder, cannot be written, or is given twice.
        """
        seen: dict[Path, str] = {}
        for option, path in list(self.files.items()):
            first = seen.setdefault(path.resolve(), option)
            why = ""
            if first != option:
                why = f"is {first}'s file already, expected another"
            elif path.is_dir():
                why = "is a folder, expected a file"
            else:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if path.is_file() and not path.is_symlink():  # not a pipe or a device
                        path.unlink()
                except OSError as error:
                    why = f"cannot be written ({error.strerror})"
            if why:
                del self.files[option]  # or writing the refusal would fail as well
                raise UsageError(f"{option}: {path} {why}")

    def write(self, outcome: Outcome) -> None:
        """Write it everywhere: the files first, which no terminal can spoil."""
        self._write(outcome)
        print(formats.to_json(outcome).rstrip("\n") if self.as_json else formats.text(outcome))
        if self.github and not self.as_json and outcome.findings:
            print(formats.github(outcome))

    def fail(self, error: Exception, kind: str) -> Outcome:
        """Say why there is no comparison: a sentence on stderr, and wherever an outcome is waited for."""
        outcome = Outcome("no comparison", [Finding(kind, "", "", str(error))])
        self._write(outcome)
        if self.as_json:
            print(formats.to_json(outcome).rstrip("\n"))
        elif self.github:
            print(formats.github(outcome))
        print(f"hograd gate: {error}", file=sys.stderr)
        return outcome

    def unexpected(self, error: Exception) -> Outcome:
        """What nobody foresaw is no regression: nothing was compared, and the traceback says where."""
        traceback.print_exception(error)
        return self.fail(RuntimeError(f"nothing was compared: {type(error).__name__}: {error}"), "not comparable")

    def _write(self, outcome: Outcome) -> None:
        for option, path in self.files.items():
            try:
                path.write_text(_MAKERS[option](outcome), encoding="utf-8", errors="replace")
            except OSError as error:
                print(f"hograd gate: {option}: {path} cannot be written ({error.strerror})", file=sys.stderr)
        summary = os.environ.get("GITHUB_STEP_SUMMARY") if self.github else None
        if summary:
            try:
                with open(summary, "a", encoding="utf-8") as file:
                    file.write(formats.markdown(outcome))
            except OSError as error:
                print(f"hograd gate: the job's summary cannot be written ({error.strerror})", file=sys.stderr)
