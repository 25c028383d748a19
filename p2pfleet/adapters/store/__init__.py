"""What a node keeps: the store, the packs, its identity, and the lock of its data folder."""

from p2pfleet.adapters.store.ban_file import BanFile
from p2pfleet.adapters.store.data_folder import lock_data_dir
from p2pfleet.adapters.store.identity import load_or_create_identity, peer_of
from p2pfleet.adapters.store.packs import FilePacks
from p2pfleet.adapters.store.partial import FilePartial
from p2pfleet.adapters.store.sqlite_store import SqliteStore

__all__ = [
    "BanFile",
    "FilePacks",
    "FilePartial",
    "SqliteStore",
    "load_or_create_identity",
    "lock_data_dir",
    "peer_of",
]
