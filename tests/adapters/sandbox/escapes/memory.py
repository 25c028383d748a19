"""Attempts on the memory that a child shares with the node, and to share more."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

from .attempt import attempt
from .means import AT_FDCWD, SHARED_ANONYMOUS, World, call, map_memory

_RW = mmap.PROT_READ | mmap.PROT_WRITE
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MAY_MOVE = 1
_SEALED = "it is sealed for everybody"
_ADD_SEALS, _SEAL_WRITE = 1033, 8


@attempt(
    furthest=errno.EACCES, everywhere=True, because="it was mapped from a read-only descriptor"
)
def makes_its_inputs_writable(world: World) -> str:
    call("mprotect", world.own_arena("inputs"), mmap.PAGESIZE, _RW)
    return "the inputs can be written"


@attempt(furthest=errno.EACCES, everywhere=True, because="it is sealed")
def makes_its_model_writable(world: World) -> str:
    call("mprotect", world.own_arena("model_bytes"), mmap.PAGESIZE, _RW)
    return "the model can be written"


@attempt()
def writes_its_inputs_through_a_new_descriptor(world: World) -> str:
    path = b"/proc/self/fd/%d" % world.own_descriptor("input_fd")
    fd = call("openat", AT_FDCWD, path, os.O_RDWR, 0)
    call("write", fd, b"x", 1)
    return "the node's own half of the arena"


@attempt(furthest=errno.EPERM, because=_SEALED)
def lets_its_outputs_grow(world: World) -> str:
    call("ftruncate", world.own_descriptor("output_fd"), 2**30)
    return "1 GiB of memory that nobody counts"


@attempt(furthest=errno.EPERM, because=_SEALED)
def lets_its_outputs_shrink(world: World) -> str:
    call("ftruncate", world.own_descriptor("output_fd"), 0)
    return "the node reads beyond the end"


@attempt(furthest=errno.EPERM, everywhere=True, because=_SEALED)
def seals_its_outputs(world: World) -> str:
    call("fcntl", world.own_descriptor("output_fd"), _ADD_SEALS, _SEAL_WRITE)
    return "another seal"


@attempt()
def fills_its_outputs_by_allocation(world: World) -> str:
    call("fallocate", world.own_descriptor("output_fd"), 0, 0, 4096)
    return "a page"


@attempt()
def maps_its_outputs_twice(world: World) -> str:
    """Nothing of the old size is asked for, which means: leave it where it is."""
    address = call("mremap", world.own_arena("outputs"), 0, mmap.PAGESIZE, _MAY_MOVE)
    return f"a second view at {address:#x}"


@attempt()
def maps_its_outputs_twice_by_an_overflow(world: World) -> str:
    """So large an old size that the kernel, rounding it up, comes to nothing."""
    address = call("mremap", world.own_arena("outputs"), -1, mmap.PAGESIZE, _MAY_MOVE)
    return f"a second view at {address:#x}"


@attempt()
def moves_its_outputs(world: World) -> str:
    address = call(
        "mremap", world.own_arena("outputs"), mmap.PAGESIZE, mmap.PAGESIZE, _MAY_MOVE | 2,
        world.own_arena("inputs"),
    )  # fmt: skip
    return f"in the place of its inputs, at {address:#x}"


@attempt(
    dies_of=("SIGBUS",),
    furthest="SIGBUS",
    everywhere=True,
    because="beyond the end of the sealed file there is no memory",
)
def stretches_its_outputs(world: World) -> str:
    size = world.arena_sizes["outputs"]
    address = call("mremap", world.own_arena("outputs"), size, size + 2**20, _MAY_MOVE)
    ctypes.memset(address + size, 1, 1)
    return "more outputs than there are"


@attempt(
    dies_of=("SIGSEGV",), furthest="SIGSEGV", everywhere=True, because="it is mapped read-only"
)
def writes_its_model(world: World) -> str:
    ctypes.memset(world.own_arena("model_bytes"), 1, 1)
    return "the model can be written"


@attempt()
def lays_pages_of_its_outputs_in_another_order(world: World) -> str:
    call("remap_file_pages", world.own_arena("outputs"), mmap.PAGESIZE, 0, 1, 0)
    return "another order"


@attempt()
def shares_new_memory(world: World) -> str:
    return f"at {map_memory(_RW, SHARED_ANONYMOUS):#x}"


@attempt()
def attaches_a_segment_of_others(world: World) -> str:
    address = call("shmat", world.segment, 0, 0)
    ctypes.memset(address + 8, 1, 1)
    return f"at {address:#x}"


@attempt()
def protects_memory_by_keys(world: World) -> str:
    call("pkey_mprotect", map_memory(_RW, _PRIVATE), mmap.PAGESIZE, _RW, -1)
    return "pkey_mprotect"


@attempt(dies_of=("SIGSEGV",), furthest=errno.EFAULT, because="it is mapped read-only")
def has_the_kernel_write_its_inputs(world: World) -> str:
    call("pread64", world.own_descriptor("model_fd"), world.own_arena("inputs"), 4, 0)
    return "the inputs can be written by the kernel"
