"""What all tests share: nothing of the caller's shell or of the machine's speed decides them."""

import os

from hypothesis import settings

from utils.settings import Settings

# Before any test module is imported, so that the processes that tests start don't see them either.
for name in Settings.__dataclass_fields__:
    os.environ.pop(name.upper(), None)

# A busy machine is no reason for a test to fail.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
