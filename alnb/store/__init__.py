"""What lies on disk and what it is called: files, descriptions, locks, runs, random streams, stop requests, checks."""

from alnb.store.describe import commit, describe, differences, digest, environment, fingerprint, version
from alnb.store.files import (
    Corrupted,
    Json,
    encode,
    read_json,
    read_tensors,
    workspace,
    write_atomic,
    write_json,
    write_tensors,
)
from alnb.store.locks import Locked, exclusive, held
from alnb.store.run import FORMAT, LOCK_SECONDS, ManifestDiffers, NewerFormat, Run, cached
from alnb.store.streams import Stream
