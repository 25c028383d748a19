"""The switch of an internet: delay, loss, bandwidth, bounded queues, cuts; time is passed in."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from p2pfleet.cli.internet.line import FLYING_MAX_BYTES, QUEUE_MIN_BYTES, Line
from p2pfleet.cli.internet.switch import Switch, too_big
from p2pfleet.cli.internet.weather import CLEAR, MTU_FAIR, MTU_FOUL, Weather

ALICE, BOB, CAROL, ROUTER = (bytes([10, 77, 0, number]) for number in range(2, 6))


def line(**weather: float) -> Line:
    return Line(Weather(**weather), random.Random(1))


def packet(source: bytes, to: bytes, size: int = 100, flags: int = 0x40) -> bytes:
    """An IPv4 packet with nothing in it."""
    header = struct.pack("!BBHHBBBBH4s4s", 0x45, 0, size, 0, flags, 0, 64, 17, 0, source, to)
    return header + bytes(size - len(header))


class Net:
    """A switch with Alice, Bob and Carol, and what came out of it."""

    def __init__(self, **weather: float) -> None:
        self.now = 100.0
        self.came: list[tuple[float, int, bytes]] = []
        self.switch = Switch(7, lambda port, data: self.came.append((self.now, port, data)))
        self.switch.add(0, ALICE, lan="home", weather=Weather(**weather))
        self.switch.add(1, BOB, lan="home")
        self.switch.add(2, CAROL)

    def send(self, port: int, data: bytes) -> None:
        self.switch.receive(port, data, self.now)

    def run(self) -> None:
        """Let everything arrive."""
        while (at := self.switch.next_at) is not None:
            self.now = at
            self.switch.advance(at)


# ---- one line ------------------------------------------------------------------------------------


def test_without_weather_a_packet_comes_out_as_soon_as_it_goes_in() -> None:
    assert line().free
    assert not line(latency_ms=1).free


def test_jitter_spreads_packets_evenly_and_never_lets_one_overtake_another() -> None:
    late = line(latency_ms=20, jitter_ms=10)
    times = [late.admit(100, second) for second in range(1000)]
    delays = [at - second for second, at in enumerate(times) if at is not None]
    assert len(delays) == 1000
    assert 0.02 <= min(delays) < 0.021
    assert 0.029 < max(delays) <= 0.03
    assert sum(delays) / 1000 == pytest.approx(0.025, abs=0.0005)
    crowded = line(latency_ms=20, jitter_ms=10)
    close = [crowded.admit(100, number / 10_000) for number in range(1000)]
    assert close == sorted(close, key=float)


def test_loss_takes_its_share_and_the_same_packets_for_the_same_luck() -> None:
    one, other = line(loss=0.02), line(loss=0.02)
    lost = [one.admit(100, 0) is None for _ in range(50_000)]
    assert lost == [other.admit(100, 0) is None for _ in range(50_000)]
    assert sum(lost) == one.lost
    assert 0.018 < one.lost / 50_000 < 0.022
    assert line(loss=1).admit(100, 0) is None


def test_no_more_comes_out_than_fits_through() -> None:
    narrow = line(bandwidth_mbit=2)
    # A megabyte in pieces of 1000 bytes, each sent when the queue has room for it.
    now, out = 0.0, 0.0
    for _ in range(1000):
        at = narrow.admit(1000, now)
        assert at is not None
        out = at
        now = max(now, at - 0.1)
    assert out == pytest.approx(1_000_000 * 8 / 2e6)


def test_what_does_not_fit_into_the_queue_is_dropped() -> None:
    narrow = line(bandwidth_mbit=2)
    came = [narrow.admit(1000, 0.0) for _ in range(1000)]
    fitted = [at for at in came if at is not None]
    assert len(fitted) == int(2e6 / 8 * 0.25 / 1000)
    assert narrow.overflowed == 1000 - len(fitted)
    assert max(fitted) <= 0.25
    assert narrow.admit(1000, 0.25) is not None, "an empty queue has room again"
    slowest = line(bandwidth_mbit=0.01)
    assert sum(slowest.admit(1500, 0.0) is not None for _ in range(100)) == QUEUE_MIN_BYTES / 1500


def test_what_is_under_way_is_bounded() -> None:
    far = line(latency_ms=10_000)
    taken = sum(far.admit(65_535, 0.0) is not None for _ in range(1000))
    assert taken == FLYING_MAX_BYTES // 65_535
    for _ in range(taken):
        far.landed(65_535)
    assert far.flying_bytes == 0


# ---- the switch ----------------------------------------------------------------------------------


def test_a_packet_goes_through_the_weather_of_both_ends() -> None:
    net = Net(latency_ms=50)
    net.switch.change(1, Weather(latency_ms=20))
    net.send(0, packet(ALICE, BOB))
    net.run()
    net.send(1, packet(BOB, ALICE))
    net.run()
    assert [(round(at - 100, 6), port) for at, port, _ in net.came] == [(0.07, 1), (0.14, 0)]


def test_packets_reach_the_address_that_they_name_and_no_other() -> None:
    net = Net()
    net.send(0, packet(ALICE, CAROL))
    net.send(0, packet(ALICE, bytes([10, 77, 9, 9])))
    net.send(0, packet(CAROL, BOB))  # under another's address
    net.send(0, b"\x60" + bytes(60))  # no IPv4
    net.send(0, b"")
    assert [port for _, port, _ in net.came] == [2]
    net.switch.renumber(2, bytes([10, 77, 9, 9]))
    net.send(0, packet(ALICE, CAROL))
    net.send(0, packet(ALICE, bytes([10, 77, 9, 9])))
    assert [port for _, port, _ in net.came] == [2, 2]


def test_multicast_stays_on_its_lan() -> None:
    net = Net()
    net.send(0, packet(ALICE, bytes([224, 0, 0, 251])))
    net.send(2, packet(CAROL, bytes([224, 0, 0, 251])))
    assert [port for _, port, _ in net.came] == [1]


def test_behind_a_router_what_is_for_nobody_there_goes_to_the_router() -> None:
    net = Net()
    inner = bytes([192, 168, 1, 2])
    net.switch.add(3, ROUTER)
    net.switch.add(4, bytes([192, 168, 1, 1]), 1, gateway=True)
    net.switch.add(5, inner, 1)
    net.send(5, packet(inner, BOB))
    net.send(4, packet(BOB, inner))
    net.send(1, packet(BOB, inner))  # from outside a private address leads nowhere
    assert [port for _, port, _ in net.came] == [4, 5]


def test_a_cut_lets_nothing_through_until_it_is_healed() -> None:
    net = Net()
    net.switch.cut([(0,), (1, 2)])
    for source, to in ((0, BOB), (0, CAROL), (1, ALICE), (1, CAROL)):
        net.send(source, packet((ALICE, BOB, CAROL)[source], to))
    net.send(0, packet(ALICE, bytes([224, 0, 0, 251])))
    assert [port for _, port, _ in net.came] == [2]
    net.switch.heal()
    net.send(0, packet(ALICE, BOB))
    assert [port for _, port, _ in net.came] == [2, 1]


def test_weather_can_change_while_packets_are_under_way() -> None:
    net = Net(latency_ms=50)
    net.send(0, packet(ALICE, BOB, 100))
    net.switch.change(0, CLEAR)
    net.send(0, packet(ALICE, BOB, 101))
    assert net.came == [], "the second does not overtake the first"
    net.run()
    assert [len(data) for _, _, data in net.came] == [100, 101]
    net.send(0, packet(ALICE, BOB, 102))
    assert len(net.came) == 3


def test_a_packet_too_large_for_the_next_link_is_answered_with_the_size_that_fits() -> None:
    net = Net()
    net.switch.change(1, Weather(loss=0.000001))
    large = packet(ALICE, BOB, 9000)
    net.send(0, large)
    ((_, port, answer),) = net.came
    assert port == 0
    assert answer == too_big(large, MTU_FOUL)
    assert (answer[9], answer[20:22]) == (socket.IPPROTO_ICMP, bytes([3, 4]))
    assert struct.unpack("!H", answer[26:28]) == (MTU_FOUL,)
    assert answer[28:56] == large[:28]
    for part in (answer[:20], answer[20:]):
        total = sum(struct.unpack(f"!{len(part) // 2}H", part))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert MTU_FAIR > 9000
    net.send(0, packet(ALICE, BOB, 9000, flags=0))
    net.run()
    assert net.came[-1][1] == 1


def test_the_same_seed_gives_the_same_luck() -> None:
    runs = []
    for _ in range(2):
        net = Net(loss=0.3, jitter_ms=30)
        for number in range(200):
            net.send(0, packet(ALICE, BOB, 50 + number))
        net.run()
        runs.append([(at, len(data)) for at, _, data in net.came])
    assert runs[0] == runs[1]
    assert 100 < len(runs[0]) < 180
