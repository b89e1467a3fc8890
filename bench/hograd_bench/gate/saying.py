"""Where an outcome goes: the terminal, files, annotations. Whatever happens, whoever waits for it gets one."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hograd_bench.gate import output
from hograd_bench.gate.outcome import Finding, Outcome, UsageError

_MAKERS = {"--json-file": output.to_json, "--junit": output.junit, "--markdown": output.markdown}


@dataclass
class Saying:
    """Where to.

    Attributes:
        as_json: print JSON instead of text.
        files: option -> file, for those that were given.
        github: also annotations, and the job's summary.
    """

    as_json: bool
    files: dict[str, Path]
    github: bool

    def make_room(self, others: Mapping[str, Path | None]) -> None:
        """Folders for what will be written, before minutes are spent on it; an outcome of before goes.

        Args:
            others: further options and their files.

        Raises:
            UsageError: a path is a folder, cannot be written, or is given twice; nothing was touched then.
        """
        # Others first: where one file is named twice, the outcome does not overwrite what must be kept.
        wanted = [(option, path) for option, path in others.items() if path is not None] + list(self.files.items())
        seen: dict[Path, str] = {}
        for option, path in wanted:
            twin = seen.setdefault(path.resolve(), option)
            if twin != option:
                self.files.pop(option, None)
                raise UsageError(f"{option}: {path} is {twin}'s file already, expected another")
            if path.is_dir():
                self.files.pop(option, None)
                raise UsageError(f"{option}: {path} is a folder, expected a file")
        for option, path in wanted:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if option in self.files and path.is_file() and not path.is_symlink():  # not a pipe or a device
                    path.unlink()
            except OSError as error:
                self.files.pop(option, None)  # or saying so would fail as well
                raise UsageError(f"{option}: {path} cannot be written ({error.strerror})") from None

    def say(self, outcome: Outcome) -> None:
        """Write it everywhere: the files first, which no terminal can spoil."""
        self._write(outcome)
        print(output.to_json(outcome).rstrip("\n") if self.as_json else output.text(outcome))
        if self.github and not self.as_json and outcome.findings:
            print(output.github(outcome))

    def fail(self, error: Exception, kind: str) -> Outcome:
        """Say why there is no comparison: a sentence on stderr, and wherever an outcome is waited for."""
        outcome = Outcome("no comparison", [Finding(kind, "", "", str(error))])
        self._write(outcome)
        if self.as_json:
            print(output.to_json(outcome).rstrip("\n"))
        elif self.github:
            print(output.github(outcome))
        print(f"hograd gate: {error}", file=sys.stderr)
        return outcome

    def surprised(self, error: Exception) -> Outcome:
        """What nobody foresaw is no regression: nothing was compared, and the traceback says where."""
        traceback.print_exception(error)
        return self.fail(RuntimeError(f"nothing was compared: {type(error).__name__}: {error}"), "not comparable")

    def _write(self, outcome: Outcome) -> None:
        for option, path in self.files.items():
            try:
                path.write_text(_MAKERS[option](outcome), encoding="utf-8")
            except OSError as error:
                print(f"hograd gate: {option}: {path} cannot be written ({error.strerror})", file=sys.stderr)
        summary = os.environ.get("GITHUB_STEP_SUMMARY") if self.github else None
        if summary:
            try:
                with open(summary, "a", encoding="utf-8") as file:
                    file.write(output.markdown(outcome))
            except OSError as error:
                print(f"hograd gate: the job's summary cannot be written ({error.strerror})", file=sys.stderr)
