"""Parse container files with BuildKit's own parser.

Run by the validators' Python: FILE… Prints a JSON object a file, with its problems and its instructions. The parser
takes any word for an instruction; the builder does not, so the words are checked here.
"""

import json
import sys
from pathlib import Path

import dockerfile

KNOWN = {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "ONBUILD", "RUN"}
KNOWN |= {"SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}


def problems(words: list[str]) -> list[str]:
    """What the builder would say of the instructions."""
    unknown = [word for word in words if word not in KNOWN]
    first = words[0] if words else "nothing"
    return [f"unknown instruction {', '.join(unknown)}"] if unknown else [f"begins with {first}"] * (first != "FROM")


def main() -> None:
    """Tell of each file."""
    for file in sys.argv[1:]:
        try:
            read = dockerfile.parse_string(Path(file).read_text())
        except dockerfile.GoParseError as error:
            print(json.dumps({"file": file, "problems": [str(error)], "read": None}))
            continue
        told = [{"does": one.cmd.upper(), "flags": one.flags, "value": one.value, "list": one.json} for one in read]
        print(json.dumps({"file": file, "problems": problems([one["does"] for one in told]), "read": told}))


if __name__ == "__main__":
    main()
