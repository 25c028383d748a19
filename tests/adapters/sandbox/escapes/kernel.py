"""Attempts on the parts of the kernel that no model needs, from which most escapes have come."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct

from .attempt import attempt
from .means import World, call, map_memory

_RW = mmap.PROT_READ | mmap.PROT_WRITE
_OPTION = "it is an option of the kernel"


@attempt(optional=(errno.ENOSYS, errno.EPERM), because="io_uring can be left out or switched off")
def sets_up_a_ring_of_calls(world: World) -> str:
    call("io_uring_setup", 4, ctypes.create_string_buffer(120))
    return "io_uring: calls that no filter sees"


@attempt()
def sets_up_asynchronous_calls(world: World) -> str:
    call("io_setup", 1, ctypes.byref(ctypes.c_ulong()))
    return "an aio context"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def handles_its_own_page_faults(world: World) -> str:
    call("userfaultfd", 1)
    return "it can stop the kernel in mid-copy"


@attempt(needs=("BPF",), optional=(errno.ENOSYS,), because=_OPTION)
def loads_a_table_into_the_kernel(world: World) -> str:
    call("bpf", 0, struct.pack("IIIII", 2, 4, 8, 1, 0) + bytes(100), 120)
    return "a bpf map"


@attempt(needs=("PERFMON",), optional=(errno.ENOENT, errno.ENOSYS), because=_OPTION)
def counts_events_of_the_processor(world: World) -> str:
    software, task_clock = 1, 1
    event = struct.pack("IIQ", software, 112, task_clock) + bytes(96)
    call("perf_event_open", event, 0, -1, -1, 0)
    return "a performance counter"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def adds_a_key(world: World) -> str:
    call("add_key", b"user", b"p2pfleet-escape", b"x", 1, -1)  # into the thread's own ring
    return "a key in the kernel"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def looks_at_the_keys(world: World) -> str:
    return f"key ring {call('keyctl', 0, -3, 1)}"


@attempt(furthest=errno.ENOKEY, because="there is no such key")
def asks_for_a_key(world: World) -> str:
    call("request_key", b"user", b"p2pfleet-escape", 0, 0)
    return "a key"


@attempt(
    needs=("SYS_MODULE",),
    furthest=errno.ENOEXEC,
    optional=(errno.ENOSYS,),
    because="what it loads is no module; a kernel may have none",
)
def loads_a_module(world: World) -> str:
    call("init_module", bytes(64), 64, b"")
    return "code in the kernel"


@attempt(
    needs=("SYS_MODULE",),
    furthest=errno.EBADF,
    optional=(errno.ENOSYS,),
    because="it has no file of a module; a kernel may have none",
)
def loads_a_module_from_a_file(world: World) -> str:
    call("finit_module", 999, b"", 0)
    return "code in the kernel"


@attempt(
    needs=("SYS_MODULE",),
    furthest=errno.ENOENT,
    optional=(errno.ENOSYS,),
    because="it removes a module that is not there; a kernel may have none",
)
def removes_a_module(world: World) -> str:
    call("delete_module", b"p2pfleet_escape", 0x800)
    return "less code in the kernel"


@attempt(
    needs=("SYS_BOOT",),
    furthest=errno.EINVAL,
    optional=(errno.ENOSYS,),
    because="it passes too many segments, lest it succeeds; a kernel may not have it",
)
def loads_another_kernel(world: World) -> str:
    call("kexec_load", 0, 1000, 0, 0)
    return "another kernel"


@attempt(needs=("SYS_BOOT",), furthest=errno.EINVAL, because="its magic is wrong, lest it succeeds")
def reboots_the_machine(world: World) -> str:
    call("reboot", 1, 2, 3, 0)
    return "an end"


@attempt(needs=("SYSLOG",))
def reads_the_kernels_log(world: World) -> str:
    return f"{call('syslog', 3, ctypes.create_string_buffer(64), 64)} bytes of the log"


@attempt(needs=("SYS_TIME",))
def sets_the_clock(world: World) -> str:
    zone = ctypes.create_string_buffer(8)
    libc = ctypes.CDLL(None)
    libc.gettimeofday(None, zone)
    call("settimeofday", 0, zone)
    return "the time zone of the kernel"


@attempt(furthest=errno.EINVAL, because="its time is no time, lest it counts")
def sets_the_clock_by_the_newer_call(world: World) -> str:
    call("clock_settime", 0, struct.pack("qq", 0, 2**40))
    return "another time"


@attempt()
def looks_at_the_clocks_corrections(world: World) -> str:
    call("adjtimex", ctypes.create_string_buffer(256))
    return "the state of the clock"


@attempt(needs=("SYS_ADMIN",))
def names_the_machine(world: World) -> str:
    call("sethostname", b"escape", 6)
    return "a host name"


@attempt(needs=("SYS_ADMIN",))
def names_the_domain(world: World) -> str:
    call("setdomainname", b"escape", 6)
    return "a domain name"


@attempt(needs=("SYS_ADMIN",), furthest=errno.ENOENT, because="the file does not exist")
def swaps_to_a_file(world: World) -> str:
    call("swapon", world.folder + b"/none", 0)
    return "swap"


@attempt(
    needs=("SYS_PACCT",),
    furthest=errno.ENOENT,
    optional=(errno.ENOSYS,),
    because="the file does not exist; accounting is an option of the kernel",
)
def accounts_to_a_file(world: World) -> str:
    call("acct", world.folder + b"/none")
    return "a line about every process"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def asks_for_quotas(world: World) -> str:
    call("quotactl", 0x800001 << 8, 0, 0, 0)  # Q_SYNC of all
    return "quotas are written"


@attempt(machine="x86_64", needs=("SYS_RAWIO",), optional=(errno.ENOSYS,), because=_OPTION)
def reaches_the_ports_of_the_machine(world: World) -> str:
    call("ioperm", 0x80, 1, 1)
    return "a port"


@attempt(machine="x86_64", needs=("SYS_RAWIO",), optional=(errno.ENOSYS,), because=_OPTION)
def reaches_all_ports_of_the_machine(world: World) -> str:
    call("iopl", 3)
    return "all ports"


@attempt(machine="x86_64", optional=(errno.ENOSYS,), because=_OPTION)
def describes_its_own_segments(world: World) -> str:
    entry = struct.pack("IIII", 0, 0, 0, 0x28)
    call("modify_ldt", 0x11, entry, len(entry))
    return "a segment"


@attempt(machine="x86_64")
def moves_a_segment_register(world: World) -> str:
    call("arch_prctl", 0x1001, 0)  # ARCH_SET_GS
    return "its GS"


@attempt()
def lays_its_memory_out_anew(world: World) -> str:
    call("personality", 0x0040000)  # ADDR_NO_RANDOMIZE
    return "predictable addresses"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def makes_a_set_of_rules(world: World) -> str:
    rules = struct.pack("Q", 1)
    call("landlock_create_ruleset", rules, len(rules), 0)
    return "a descriptor of rules"


@attempt()
def listens_to_calls(world: World) -> str:
    allow = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(allow))
    call("prctl", 38, 1, 0, 0, 0)
    call("seccomp", 1, 8, program)  # with a descriptor that hears of calls
    return "a filter that asks it"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def makes_a_shared_segment(world: World) -> str:
    segment = call("shmget", 0, 4096, 0o1600)
    call("shmctl", segment, 0, 0)
    return "shared memory"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def reads_a_shared_segment(world: World) -> str:
    return ctypes.string_at(call("shmat", world.segment, 0, 0), 6).decode()


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def makes_a_queue_of_messages(world: World) -> str:
    queue = call("msgget", 0, 0o1600)
    call("msgctl", queue, 0, 0)
    return "a queue"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def makes_a_queue_with_a_name(world: World) -> str:
    name = b"p2pfleet-escape-%d" % world.own_pid()
    call("mq_open", name, 0o102, 0o600, 0)
    call("mq_unlink", name)
    return "a queue"


@attempt(optional=(errno.ENOSYS,), because=_OPTION)
def makes_a_semaphore(world: World) -> str:
    semaphore = call("semget", 0, 1, 0o1600)
    call("semctl", semaphore, 0, 0, 0)
    return "a semaphore"


@attempt()
def makes_a_timer(world: World) -> str:
    call("timer_create", 1, 0, ctypes.byref(ctypes.c_int()))
    return "a timer that signals"


@attempt(optional=(errno.ENOSYS,), because="a kernel may know no memory nodes")
def places_its_memory(world: World) -> str:
    call("mbind", map_memory(_RW, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), 4096, 0, 0, 0, 0)
    return "a policy of memory"


@attempt(optional=(errno.EINVAL,), because=_OPTION)
def has_its_memory_merged_with_that_of_others(world: World) -> str:
    address = map_memory(_RW, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    call("madvise", address, mmap.PAGESIZE, 12)
    return "pages that betray by their timing what others hold"
