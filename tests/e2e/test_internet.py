"""Hosts in network namespaces: weather, NAT, partitions, LANs; and nothing is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from p2pfleet.cli.internet import CLEAR, Host, Internet, Router, Weather, sweep
from p2pfleet.core.errors import P2pfleetError
from tests.e2e.hosts import Tag, devices, in_namespaces, mounted_namespaces, udp, wants_hosts
from tests.e2e.local import wait_until

pytestmark = [pytest.mark.e2e, wants_hosts]

GROUP = "224.0.0.251"
SLEEP = ["sleep", "600"]


@pytest.fixture
def internet() -> Iterator[Internet]:
    with Internet(seed=1) as found:
        yield found


def heard(listener: socket.socket, within_s: float = 5) -> tuple[bytes, tuple[str, int]] | None:
    listener.settimeout(within_s)
    try:
        data, (address, port) = listener.recvfrom(65_536)
    except TimeoutError:
        return None
    return data, (address, port)


def round_trip_s(one: Host, other: Host) -> float:
    """The fastest of a few: on a busy machine any of them may have to wait for the processor."""
    times = []
    with udp(one) as here, udp(other) as there:
        for _ in range(5):
            begin = time.monotonic()
            here.sendto(b"ping", there.getsockname())
            data, sender = there.recvfrom(100)
            there.sendto(data, sender)
            here.recvfrom(100)
            times.append(time.monotonic() - begin)
    return min(times)


def transfer_s(source: Host, target: Host, size: int) -> float:
    """How long ``size`` bytes take over TCP."""
    with target.inside():
        listener = socket.create_server((target.ip, 0))
    with source.inside():
        sender = socket.socket()
    with listener, sender:
        sender.settimeout(20)
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()
        receiver.settimeout(20)
        begin = time.monotonic()
        writer = threading.Thread(target=lambda: (sender.sendall(bytes(size)), sender.close()))
        writer.start()
        with receiver:
            got = 0
            while data := receiver.recv(2**20):
                got += len(data)
        writer.join()
    assert got == size
    return time.monotonic() - begin


def test_a_link_delays_and_squeezes_what_passes_it_until_its_weather_changes(
    internet: Internet,
) -> None:
    near, far = internet.host("near"), internet.host("far", Weather(latency_ms=60))
    assert 0.12 <= round_trip_s(near, far) < 0.5
    far.change(Weather(bandwidth_mbit=16))
    # Two megabytes a second, less what its queue takes at once.
    assert 0.4 <= transfer_s(near, far, 10**6) < 10
    far.change(CLEAR)
    assert round_trip_s(near, far) < 0.1


def test_fast_links_carry_thirty_megabytes_a_second(internet: Internet) -> None:
    size = 60 * 10**6
    took = transfer_s(internet.host("here"), internet.host("there"), size)
    print(f"{size / took / 1e6:.0f} MB/s between two hosts")
    assert size / took > 30e6


def test_tcp_gets_through_loss_and_the_link_counts_what_it_took(internet: Internet) -> None:
    near, far = internet.host("near"), internet.host("far", Weather(latency_ms=5, loss=0.02))
    transfer_s(near, far, 10**6)
    traffic = near.traffic()
    assert traffic.sent_bytes > 1.02 * 10**6, "headers, and some of it twice"
    assert traffic.lost == 0
    # 700 packets and half as many acknowledgements, of which about 20 were lost.
    assert 3 < far.traffic().lost < 80
    assert far.traffic().received_bytes < traffic.sent_bytes


def test_a_cut_separates_and_healing_joins_again(internet: Internet) -> None:
    a, b, c = (internet.host(name) for name in "abc")
    home = internet.router("home")
    d = internet.host("d", behind=home)
    with udp(a) as at_a, udp(b) as at_b, udp(c) as at_c, udp(d) as at_d:
        internet.cut([a], [b, d])
        at_a.sendto(b"cut", at_b.getsockname())
        at_d.sendto(b"cut", at_a.getsockname())
        at_a.sendto(b"open", at_c.getsockname())
        at_d.sendto(b"open", at_b.getsockname())
        assert heard(at_c) == (b"open", at_a.getsockname())
        assert heard(at_b) == (b"open", (home.ip, at_d.getsockname()[1]))
        internet.heal()
        internet.cut([d])
        at_d.sendto(b"alone", at_b.getsockname())
        at_a.sendto(b"others", at_b.getsockname())
        assert heard(at_b) == (b"others", at_a.getsockname())
        internet.heal()
        at_d.sendto(b"healed", at_a.getsockname())
        assert heard(at_a) == (b"healed", (home.ip, at_d.getsockname()[1]))
        assert heard(at_b, 0.1) is None


def test_no_two_sides_of_a_cut_share_a_router(internet: Internet) -> None:
    home, a = internet.router("home"), internet.host("a")
    b, c = (internet.host(name, behind=home) for name in "bc")
    with pytest.raises(ValueError, match="behind home"):
        internet.cut([a, b], [c])
    internet.cut([b], [c])  # in the LAN they can be cut
    with udp(a) as at_a, udp(b) as at_b, udp(c) as at_c:
        at_b.sendto(b"neighbour", at_c.getsockname())
        at_b.sendto(b"outside", at_a.getsockname())
        assert heard(at_a) is not None
        assert heard(at_c, 0.1) is None


def seen_from(host: Host, others: list[socket.socket], local: socket.socket) -> list[int]:
    """From which ports of its router each of ``others`` hears the same socket of ``host``."""
    ports = []
    for other in others:
        local.sendto(b"hello", other.getsockname())
        found = heard(other)
        assert found is not None
        assert found[1][0] == host.public_ip
        ports.append(found[1][1])
    return ports


def test_a_cone_maps_a_port_to_itself_whoever_is_talked_to_and_lets_only_those_answer(
    internet: Internet,
) -> None:
    a, b, c = (internet.host(name) for name in "abc")
    d = internet.host("d", behind=internet.router("home", "cone"))
    with udp(a) as at_a, udp(b) as at_b, udp(c) as at_c, udp(d) as at_d:
        port = at_d.getsockname()[1]
        assert seen_from(d, [at_a, at_b], at_d) == [port, port]
        at_c.sendto(b"stranger", (d.public_ip, port))
        at_c.sendto(b"stranger", (d.ip, port))
        at_b.sendto(b"friend", (d.public_ip, port))
        assert heard(at_d) == (b"friend", at_b.getsockname())
        assert heard(at_d, 0.1) is None
        # Who was not let in may still be talked to later, from the same port: a punched hole.
        assert seen_from(d, [at_c], at_d) == [port]


def test_a_symmetric_router_maps_every_connection_to_another_port(internet: Internet) -> None:
    a, b = internet.host("a"), internet.host("b")
    c = internet.host("c", behind=internet.router("home", "symmetric"))
    with udp(a) as at_a, udp(b) as at_b, udp(c) as at_c:
        to_a, to_b = seen_from(c, [at_a, at_b], at_c)
        assert to_a != to_b
        at_b.sendto(b"wrong port", (c.public_ip, to_a))
        at_b.sendto(b"right port", (c.public_ip, to_b))
        assert heard(at_c) == (b"right port", at_b.getsockname())


@pytest.mark.parametrize("nat", ["cone", "symmetric"])
def test_a_forwarded_port_reaches_the_host_behind_the_router(internet: Internet, nat: str) -> None:
    a = internet.host("a")
    home: Router = internet.router("home", "cone" if nat == "cone" else "symmetric")
    b = internet.host("b", behind=home)
    with b.inside():
        listener = socket.create_server((b.ip, 4001))
    with listener, pytest.raises(TimeoutError), a.inside():
        socket.create_connection((home.ip, 4001), 0.3).close()
    home.forward(b, 4001)
    with b.inside():
        listener = socket.create_server((b.ip, 4001))
    with listener, a.inside(), socket.create_connection((home.ip, 4001), 5) as caller:
        listener.settimeout(5)
        answered, address = listener.accept()
        answered.close()
        assert address == caller.getsockname()


def test_multicast_is_heard_on_the_lan_and_nowhere_else(internet: Internet) -> None:
    home = internet.router("home")
    rooms = [internet.host(f"room-{number}", behind=home) for number in range(2)]
    desks = [internet.host(f"desk-{number}", lan="office") for number in range(2)]
    public = internet.host("public")
    hosts = [*rooms, *desks, public]
    with contextlib.ExitStack() as stack:
        listeners = []
        for host in hosts:
            with host.inside():
                listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                stack.enter_context(listener)
                listener.bind(("", 5353))
                member = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(host.ip))
                listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
                listener.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            listeners.append(listener)
        listeners[0].sendto(b"room", (GROUP, 5353))
        listeners[2].sendto(b"desk", (GROUP, 5353))
        assert heard(listeners[1]) == (b"room", (rooms[0].ip, 5353))
        assert heard(listeners[3]) == (b"desk", (desks[0].ip, 5353))
        assert [heard(one, 0.05) for one in listeners] == [None] * 5


def test_a_host_with_another_address_is_reached_there_and_only_there(internet: Internet) -> None:
    a, b = internet.host("a"), internet.host("b")
    c = internet.host("c", behind=internet.router("home"))
    before = b.ip
    assert b.renumber() != before
    c.renumber()
    with udp(a) as at_a, udp(b, 4001) as at_b, udp(c) as at_c:
        at_a.sendto(b"old", (before, 4001))
        at_c.sendto(b"new", (b.ip, 4001))
        found = heard(at_b)
        assert found is not None
        assert found[0] == b"new"


# ---- what is left --------------------------------------------------------------------------------


def test_no_way_leads_out(internet: Internet) -> None:
    host = internet.host("a")
    with host.inside(), socket.socket() as outwards:
        assert devices() == ["eth0", "lo"]
        outwards.settimeout(0.3)
        with pytest.raises(TimeoutError):
            outwards.connect(("198.51.100.1", 80))
    assert host.traffic().received_bytes == 0


def namespaces_of(*processes: subprocess.Popen[bytes]) -> set[int]:
    """Which network namespaces they are in, once they are in one of their own."""
    own = Path("/proc/self/ns/net").stat().st_ino

    def entered() -> set[int]:
        found = {Path(f"/proc/{one.pid}/ns/net").stat().st_ino for one in processes}
        return set() if own in found else found

    inodes: set[int] = wait_until("the processes are in their hosts", entered)
    return inodes


@pytest.mark.parametrize("how", ["in order", "by an exception"])
def test_nothing_is_left_when_the_block_ends(how: str) -> None:
    before = (devices(), mounted_namespaces())
    with contextlib.suppress(RuntimeError), Internet() as internet:
        home = internet.router("home", "symmetric")
        hosts = [internet.host("a"), internet.host("b", behind=home)]
        # One that starts another one in a session of its own, as a daemon does.
        script = "import os,time; os.fork() or os.setsid(); time.sleep(600)"
        processes = [host.popen([sys.executable, "-c", script]) for host in hosts]
        inodes = namespaces_of(*processes)
        wait_until("everybody has forked", lambda: len(in_namespaces(inodes)) == 4)
        guard = psutil.Process(internet.guard.name.pid)
        if how != "in order":
            raise RuntimeError
    for process in processes:
        assert process.wait(10) == -signal.SIGKILL
    assert not in_namespaces(inodes)
    assert not guard.is_running()
    assert (devices(), mounted_namespaces()) == before


RUNNER = """
import sys, time
from p2pfleet.cli.internet import Internet
internet = Internet()
internet.open()
host = internet.host("a")
process = host.popen(["sleep", "600"])
print(internet.guard.name.pid, process.pid, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def runner() -> Iterator[tuple[subprocess.Popen[str], psutil.Process, psutil.Process]]:
    """A process with an internet, its guard, and a process in one of its hosts."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            guard, sleeper = (psutil.Process(int(pid)) for pid in process.stdout.readline().split())
            wait_until("it runs in its host", lambda: sleeper.name() == "sleep")
            yield process, guard, sleeper
        finally:
            process.kill()


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_nothing_is_left_when_the_process_that_built_it_is_killed() -> None:
    before = (devices(), mounted_namespaces())
    with runner() as (process, guard, sleeper):
        process.kill()
        wait_until("the guard has tidied up", lambda: gone(guard) and gone(sleeper), 10)
    assert (devices(), mounted_namespaces()) == before


def test_what_is_left_when_the_guard_is_killed_too_is_swept_up_next_time() -> None:
    with runner() as (process, guard, sleeper):
        sweep()
        assert not gone(sleeper), "its guard is there"
        process.kill()
        guard.kill()
        wait_until("the guard is gone", lambda: gone(guard))
        with Internet():
            assert gone(sleeper)


def test_who_uses_an_internet_whose_guard_was_killed_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tag = Tag(monkeypatch)
    with Internet() as internet:
        host = internet.host("a")
        process = host.popen(SLEEP)
        wait_until("it is in its host", tag.in_hosts)
        os.kill(internet.guard.name.pid, signal.SIGKILL)
        with pytest.raises(P2pfleetError, match="carries the packets"):
            host.change(CLEAR)
    assert process.wait(10) == -signal.SIGKILL


def test_who_may_not_build_hosts_is_told_in_a_sentence() -> None:
    script = (
        "import os\n"
        "from p2pfleet.cli.internet import Internet, obstacle\n"
        "os.seteuid(65534)\n"
        "try:\n"
        "    Internet().open()\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.startswith("Hosts in network namespaces need root (CAP_NET_ADMIN and ")
