"""Progress bars, the same everywhere: of tqdm, and in a notebook without red."""

import sys

from tqdm import tqdm


class ProgressBar(tqdm):
    """tqdm's bar, with its options. In a notebook it is written to standard output.

    Jupyter shows standard error in red, as if something had failed. Elsewhere a bar stays there, so
    that it doesn't mix with what a program prints for another one.
    """

    def __init__(self, *args, file=None, **options):
        in_kernel = type(sys.stdout).__module__.startswith("ipykernel.")
        usual = sys.stdout if in_kernel else sys.stderr
        super().__init__(*args, file=file or usual, **options)
