"""The process that an internet consists of: it holds every namespace and every device, carries the
packets, and ends everybody in the hosts when whoever ordered them is gone.

Started with the descriptor of its end of a socket. Nothing but this process keeps the namespaces
and devices alive, so that they cannot outlive it; and it does not outlive the one that started it,
whose end of the socket closes even if that is killed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn, assert_never

import msgspec

from p2pfleet.cli.internet import kernel, nat
from p2pfleet.cli.internet.leftovers import end_all, mark_of
from p2pfleet.cli.internet.orders import (
    MAX_BYTES,
    AddHost,
    AddRouter,
    Answer,
    Built,
    ChangeWeather,
    Count,
    Counted,
    Cut,
    Done,
    Failed,
    ForwardPort,
    Heal,
    Letter,
    Order,
    Renumber,
    Reply,
)
from p2pfleet.cli.internet.switch import Switch
from p2pfleet.cli.internet.weather import CLEAR
from p2pfleet.cli.processes import name_process

_PACKET_MAX_BYTES = 65_536
# So many packets of one host in a row, before the others get their turn.
_TURN = 32
_LOOK_EVERY_S = 1.0
_EVERYTHING = ("0.0.0.0", 0)  # noqa: S104  (a route, nothing is bound)
_OUTSIDE, _INSIDE = "wan", "lan"


class _Plug(msgspec.Struct, frozen=True):
    """The device behind a port of the switch."""

    namespace: int
    device: str
    tun: int
    prefix: int
    gateway: str = ""

    def add_route(self) -> None:
        """Everything goes out here, unless it does already. What the switch does not know gets
        lost there without an answer, as on the real internet."""
        with suppress(FileExistsError):
            kernel.add_route(*_EVERYTHING, self.device, self.gateway)


class Guard:
    """Carries out orders from ``control``, and packets between whiles."""

    def __init__(self, control: socket.socket, seed: int) -> None:
        self._control = control
        self._parent = os.getppid()
        self._switch = Switch(seed, self._deliver)
        self._plugs: dict[int, _Plug] = {}
        self._ports: dict[int, int] = {}
        self._namespaces: list[int] = []
        self._poll = select.epoll()
        self._poll.register(control.fileno(), select.EPOLLIN)
        self._decode: Callable[[bytes], Letter] = msgspec.json.Decoder(Letter).decode

    def serve(self) -> None:
        """Until the other end of ``control`` is closed."""
        control, switch, ports = self._control.fileno(), self._switch, self._ports
        while os.getppid() == self._parent:
            at = switch.next_at
            wait_s = _LOOK_EVERY_S if at is None else min(at - time.monotonic(), _LOOK_EVERY_S)
            ready = self._poll.poll(max(wait_s, 0.0))
            for descriptor, _ in ready:
                if descriptor == control:
                    if not self._obey():
                        return
                    continue
                port = ports[descriptor]
                now = time.monotonic()
                try:
                    for _ in range(_TURN):
                        switch.receive(port, os.read(descriptor, _PACKET_MAX_BYTES), now)
                except OSError:  # nothing more to read, or the device is down
                    continue
            switch.advance(time.monotonic())

    def close(self) -> int:
        """End every process in the hosts; how many there were. The rest goes with this process."""
        inodes = {os.fstat(namespace).st_ino for namespace in self._namespaces}
        me = name_process(os.getpid())
        assert me is not None
        return end_all(inodes, mark_of(me), {self._parent})

    def _deliver(self, port: int, packet: bytes) -> None:
        try:
            os.write(self._plugs[port].tun, packet)
        except OSError:
            self._switch.dropped += 1

    # ---- orders --------------------------------------------------------------------------

    def _obey(self) -> bool:
        data = self._control.recv(MAX_BYTES)
        if not data:
            return False
        letter = self._decode(data)
        try:
            answer = self._carry_out(letter.order)
        except OSError as error:
            answer = Failed(error.errno or 0, str(error))
        try:
            self._control.send(msgspec.json.encode(Reply(letter.number, answer)))
        except OSError:
            return False
        return True

    def _carry_out(self, order: Order) -> Answer:
        match order:
            case AddHost():
                return self._add_host(order)
            case AddRouter():
                return self._add_router(order)
            case ForwardPort():
                with kernel.inside(order.namespace):
                    nat.forward_port(_OUTSIDE, order.protocol, order.port, order.address)
            case ChangeWeather():
                plug = self._plugs[order.port]
                with kernel.inside(plug.namespace):
                    kernel.set_mtu(plug.device, order.weather.mtu)
                self._switch.change(order.port, order.weather)
            case Renumber():
                plug = self._plugs[order.port]
                with kernel.inside(plug.namespace):
                    kernel.set_address(plug.device, order.address, plug.prefix)
                    plug.add_route()
                self._switch.renumber(order.port, socket.inet_aton(order.address))
            case Cut():
                self._switch.cut(order.sides)
            case Heal():
                self._switch.heal()
            case Count():
                plug = self._plugs[order.port]
                with kernel.inside(plug.namespace):
                    received, sent = kernel.counters(plug.device)
                return Counted(sent, received, *self._switch.lost(order.port))
            case _:
                assert_never(order)
        return Done()

    def _add_host(self, order: AddHost) -> Built:
        namespace = self._new_namespace()
        with kernel.inside(namespace):
            tun = self._device(kernel.DEVICE, order.address, order.prefix, order.weather.mtu)
            plug = _Plug(namespace, kernel.DEVICE, tun, order.prefix, order.gateway)
            plug.add_route()
        port = self._plug(plug)
        self._switch.add(
            port,
            socket.inet_aton(order.address),
            order.segment,
            lan=order.lan,
            weather=order.weather,
        )
        return Built(namespace, (port,))

    def _add_router(self, order: AddRouter) -> Built:
        namespace = self._new_namespace()
        with kernel.inside(namespace):
            outside = self._device(_OUTSIDE, order.outside, order.outside_prefix, order.weather.mtu)
            inside = self._device(_INSIDE, order.inside, order.inside_prefix, CLEAR.mtu)
            kernel.add_route(*_EVERYTHING, _OUTSIDE)
            kernel.forward_packets()
            nat.set_rules(order.nat, _OUTSIDE)
        ports = (
            self._plug(_Plug(namespace, _OUTSIDE, outside, order.outside_prefix)),
            self._plug(_Plug(namespace, _INSIDE, inside, order.inside_prefix)),
        )
        self._switch.add(ports[0], socket.inet_aton(order.outside), weather=order.weather)
        self._switch.add(ports[1], socket.inet_aton(order.inside), order.segment, gateway=True)
        return Built(namespace, ports)

    def _new_namespace(self) -> int:
        namespace = kernel.new_namespace()
        self._namespaces.append(namespace)
        return namespace

    def _device(self, name: str, address: str, prefix: int, mtu: int) -> int:
        tun = kernel.open_tun(name)
        kernel.set_address(name, address, prefix)
        kernel.set_mtu(name, mtu)
        kernel.set_up(name)
        return tun

    def _plug(self, plug: _Plug) -> int:
        port = len(self._plugs)
        self._plugs[port] = plug
        self._ports[plug.tun] = port
        self._poll.register(plug.tun, select.EPOLLIN)
        return port


def main(descriptor: str, seed: str) -> None:
    """Run a guard until it is not wanted any more."""

    def terminated(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(descriptor)) as control:
        guard = Guard(control, int(seed))
        try:
            guard.serve()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            guard.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
