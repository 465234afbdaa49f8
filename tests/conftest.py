"""What all tests share: no setting of the caller's shell decides what is tested."""

import os

from utils.settings import Settings

# Before any test module is imported, so that the processes that tests start don't see them either.
for name in Settings.__dataclass_fields__:
    os.environ.pop(name.upper(), None)
