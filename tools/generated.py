"""Files that a program writes and git keeps: bring them up to date, or say which are not."""

import argparse
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def only_check(arguments: list[str] | None, description: str) -> bool:
    """True if the command line of such a program asks to check and to write nothing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    return bool(parser.parse_args(arguments).check)


def bring_up_to_date(wanted: Mapping[Path, str], check: bool, program: str, what: str) -> int:
    """Write the files whose text is another, or only name them; the exit status.

    Args:
        wanted: each file, below the repository, with the text that it should have.
        check: True to write nothing; the status is then 1 if any is out of date.
        program: the module that writes them, for the sentence that says what to run.
        what: they are, in the sentence that says that all is well, such as ``Syllabi and glossary are``.
    """
    stale = [file for file, text in wanted.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    for file in stale:
        if not check:
            file.parent.mkdir(exist_ok=True)
            file.write_text(wanted[file], encoding="utf-8")
        state = f"is out of date; run: .venv/bin/python -m {program}" if check else "was rewritten"
        print(f"{file.relative_to(ROOT)} {state}.")
    if not stale:
        print(f"{what} up to date.")
    return 1 if stale and check else 0
