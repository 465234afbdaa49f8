"""Lists the licence of every installed package, and fails where one is unknown or binds its users.

`python .ci/licences.py`, in the environment that is asked about.
"""

import re
import sys
from importlib import metadata

# Licences under which a package may be used and handed on with any program.
FREE = re.compile(
    r"\b(MIT|BSD|FreeBSD|Apache|ISC|PSF|Python Software Foundation|HPND|Zlib|MPL|Mozilla|Unlicense"
    r"|Public Domain|CC0|0BSD|BSL|NCSA|CNRI)",
    re.IGNORECASE,
)
# What states no licence in its metadata, looked up by hand.
KNOWN = {
    "namex": "Apache-2.0 (its file LICENSE)",
    "pycocoevalcap": "BSD-2-Clause (that of tylin/coco-caption, which it packages)",
}


def licence_of(package: metadata.Distribution) -> str:
    """The licence as the package states it: an expression, classifiers, or a short text."""
    about = package.metadata
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier", [])
        if line.startswith("License :: ") and not line.endswith("OSI Approved")
    ]
    stated = (about.get("License") or "").strip().partition("\n")[0]
    return about.get("License-Expression") or "; ".join(classifiers) or stated[:60]


def main() -> int:
    """Prints a line a package; returns 1 where a licence needs a person to look at it."""
    doubtful = []
    for package in sorted(metadata.distributions(), key=lambda one: one.name.lower()):
        licence = KNOWN.get(package.name) or licence_of(package)
        print(f"{package.name} {package.version}: {licence or 'not stated'}")
        if not FREE.search(licence):
            doubtful.append(package.name)
    if doubtful:
        print(f"To be looked at: {', '.join(doubtful)}", file=sys.stderr)
    return 1 if doubtful else 0


if __name__ == "__main__":
    sys.exit(main())
