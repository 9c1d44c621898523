"""The exceptions of a descent."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be saved or read: the message says which, why, what is whole, and the way out."""


class UnsafePathError(CheckpointError):
    """A file of a run is a link, or not a regular file."""


class FolderInUseError(CheckpointError):
    """Another run writes to a folder."""


class OrbaxError(Exception):
    """What Orbax could not do, in a few words."""


class PeerLostError(RuntimeError):
    """Another process of the descent is gone: the message says what is saved, and how to go on."""


class PeerFailedError(RuntimeError):
    """Another process of the descent failed, and says why itself; all end together."""

    kind: str = ""
    """The name of the error of that process."""
    agreed: bool = False
    """Whether all processes know, and end together: own errors that they were told of have this too."""
