"""The network between each client and the fileserver.

Theory of operation
    A `Road` is one direction between a client's machine and the server's: how long things take on
    it, and whether it is cut. A `Wire` is one direction of one connection: it keeps the order, as
    TCP does. What is sent while the road is cut waits (TCP tries again) and comes through when it
    is healed, unless the connection was broken meanwhile. Two connections, or the two directions of
    one, keep no order among each other.

    A broken connection brings nothing more. Each side is told at a time of its own, so for a while
    it may be half open.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.sim.kernel import Kernel, Process


class Road:
    """One direction between two machines.

    Args:
        kernel: the time.
        rng: for the delays.
        delay_s: the usual delay.
    """

    def __init__(self, kernel: Kernel, rng: random.Random, delay_s: float) -> None:
        self.kernel = kernel
        self.is_cut = False
        self._rng = rng
        self._delay_s = delay_s
        self._held: list[Callable[[], None]] = []

    def delay_s(self) -> float:
        """How long the next thing takes; now and then much longer."""
        spread = self._rng.random()
        factor = 20.0 if spread > 0.97 else 0.5 + spread
        return self._delay_s * factor

    def hold(self, again: Callable[[], None]) -> None:
        """Something arrived at the cut; it goes on when that is healed."""
        self._held.append(again)

    def heal(self) -> None:
        """What was held goes on."""
        self.is_cut = False
        held, self._held = self._held, []
        for again in held:
            self.kernel.at(self.kernel.now + self.delay_s(), None, again)


class Wire:
    """One direction of one connection, in order."""

    def __init__(self, road: Road, to: Process, receive: Callable[[Any], None]) -> None:
        self.is_broken = False
        self._road = road
        self._to = to
        self._receive = receive
        self._messages: deque[Any] = deque()
        self._last = 0.0

    def send(self, message: Any) -> None:
        """Puts a message on its way."""
        if self.is_broken:
            return
        kernel = self._road.kernel
        self._last = max(self._last, kernel.now + self._road.delay_s())
        self._messages.append(message)
        if self._road.is_cut:
            self._road.hold(self._again)
        else:
            kernel.at(self._last, self._to, self._deliver)

    def _again(self) -> None:
        if self._road.is_cut:
            self._road.hold(self._again)
        else:
            self._road.kernel.at(self._road.kernel.now, self._to, self._deliver)

    def _deliver(self) -> None:
        if self.is_broken or not self._messages:
            return
        if self._road.is_cut:
            self._road.hold(self._again)
            return
        self._receive(self._messages.popleft())


class Connection:
    """A connection between a client and one life of the fileserver.

    The ends put their receivers and what to do on its loss into it. Both are called once at most.
    """

    def __init__(
        self,
        client: Process,
        server: Process,
        up: Road,
        down: Road,
        at_client: Callable[[Any], None],
        on_lost_at_client: Callable[[], None],
    ) -> None:
        self.client = client
        self.server = server
        self.up = Wire(up, server, self._at_server)
        self.down = Wire(down, client, at_client)
        self.receive_at_server: Callable[[Any], None] = lambda _message: None
        self.on_lost_at_server: Callable[[], None] = lambda: None
        self._on_lost_at_client = on_lost_at_client
        self.lost_at_client = False
        self.lost_at_server = False

    def _at_server(self, message: Any) -> None:
        if not self.lost_at_server:
            self.receive_at_server(message)

    def close_at_client(self) -> None:
        """The client lets go; the server hears of it after what was sent before."""
        if not self.lost_at_client:
            self.lost_at_client = True
            self.up.send(None)

    def close_at_server(self) -> None:
        """The server lets go; the client hears of it after what was sent before."""
        if not self.lost_at_server:
            self.lost_at_server = True
            self.down.send(None)

    def break_off(self, client_notices_s: float, server_notices_s: float) -> None:
        """Nothing comes through any more; each side notices after so many real seconds."""
        self.up.is_broken = self.down.is_broken = True
        kernel = self.client.kernel
        kernel.at(kernel.now + client_notices_s, self.client, self.lose_at_client)
        kernel.at(kernel.now + server_notices_s, self.server, self.lose_at_server)

    def lose_at_client(self) -> None:
        """The client notices that the connection is gone."""
        if not self.lost_at_client:
            self.lost_at_client = True
            self._on_lost_at_client()

    def lose_at_server(self) -> None:
        """The server notices that the connection is gone."""
        if not self.lost_at_server:
            self.lost_at_server = True
            self.on_lost_at_server()
