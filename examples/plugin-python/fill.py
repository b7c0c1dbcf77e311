"""`fill` in Python: replaces `{{name}}` in every HTML page by the value that the step's config gives.

Nothing of Cofferdam is imported. The config is in the environment, what is printed is the log, and what is left in
/tmp/outputs.jsonl is the step's outputs.
"""

import json
import os
import sys
from pathlib import Path

from componentize_py_types import Err
from wit_world import exports

RELEASE = Path("/release")


class Unknown(Exception):
    """A placeholder that nothing fills."""


class Run(exports.Run):
    def run(self) -> None:
        try:
            step()
        except (OSError, UnicodeError, ValueError, Unknown) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            # An error is exit code 1; an exception that leaves this function would be a trap.
            raise Err(None) from None
        sys.stdout.flush()


def step() -> None:
    config = json.loads(os.environ["COFFERDAM_CONFIG"])
    values = {
        # Every page may say where it comes from, too.
        "project": os.environ["COFFERDAM_PROJECT"],
        "deployment": os.environ["COFFERDAM_DEPLOYMENT"],
        **config["values"],
    }
    total = 0
    for page in pages():
        try:
            text, filled = fill(page.read_bytes().decode(), values)
        except Unknown as unknown:
            raise Unknown(f"{page}: nothing fills {{{{{unknown}}}}}") from None
        if filled:
            page.write_bytes(text.encode())
            print(f"{page.relative_to(RELEASE)}  {filled} placeholders")
        total += filled
    if total == 0:
        print("warning: no page has a placeholder", file=sys.stderr)
    with open("/tmp/outputs.jsonl", "w") as outputs:
        outputs.write(json.dumps({"name": "filled", "value": total}) + "\n")


def pages() -> list[Path]:
    """Every HTML page of the release, in order. Links are not followed."""
    found = []
    for directory, _, names in os.walk(RELEASE):
        for name in names:
            path = Path(directory, name)
            if path.suffix == ".html" and not path.is_symlink():
                found.append(path)
    return sorted(found)


def fill(text: str, values: dict[str, str]) -> tuple[str, int]:
    """The text with every `{{name}}` replaced, and how many there were."""
    filled, count = [], 0
    while True:
        before, opened, after = text.partition("{{")
        name, closed, after = after.partition("}}")
        if not (opened and closed):
            return "".join(filled) + text, count
        name = name.strip()
        if name not in values:
            raise Unknown(name)
        filled += before, escaped(values[name])
        count += 1
        text = after


def escaped(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
