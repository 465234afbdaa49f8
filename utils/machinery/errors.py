"""Errors that say what was found, what was expected and what to do about it.

Everything the package refuses on purpose is a `CaptionProjectError`; each kind also derives from
the built-in exception that a reader would expect.
"""


class CaptionProjectError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        # Control characters, from names and from damaged files, could command a terminal.
        text = super().__str__()
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class SettingsError(CaptionProjectError, ValueError):
    """A setting has a value that nothing here understands."""


class DatasetError(CaptionProjectError, ValueError):
    """A data set is missing, incomplete or contradicts itself."""


class DownloadError(CaptionProjectError, OSError):
    """A download or an archive could not be fetched, or could not be trusted."""


class PhotographError(CaptionProjectError, ValueError):
    """A photograph is not a picture that can be read, and will not be one at the next attempt."""


class UnreadablePhotographError(PhotographError):
    """A photograph could not be read now (permission, disk, memory); it may well be whole."""


class EncoderError(CaptionProjectError, ValueError):
    """An encoder is unknown, or its weights are missing or don't fit."""


class MissingStageError(CaptionProjectError, FileNotFoundError):
    """A file that an earlier notebook makes is not there yet."""


class StaleArtefactError(CaptionProjectError, ValueError):
    """A file on disk is damaged, or was made from something other than what is asked for now."""


class FolderInUseError(CaptionProjectError, RuntimeError):
    """Another process is writing into the same folder."""


class DiskFullError(CaptionProjectError, OSError):
    """There is no room for a file."""
