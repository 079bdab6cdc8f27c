"""What comes from hosts: their calls (CallPreamble), and what they say on their channels."""

from __future__ import annotations

from afs.limits import MAX_WAITING_CALLS_PER_HOST
from afsd.core.callback_base import CallBackBase
from afsd.core.deliveries import CallOver
from afsd.core.hosts import Host, SessionName
from afsd.core.instructions import CloseChannel, DownCause, Instruction, Outcome, Resolve


class HostEvents(CallBackBase):
    """The part of the callback machine that hosts talk to."""

    # --- calls of hosts ---------------------------------------------------------------------------

    def may_answer(self, uuid: str) -> bool:
        """True if the host is owed nothing: its call may go on, or be answered, at once (I3)."""
        host = self.hosts.get(uuid)
        return host is None or host.is_clear

    def call_arrived(self, uuid: str, ticket: int, now: float) -> list[Instruction]:
        """CallPreamble (M7), for a call that `may_answer` does not let pass.

        The ticket is resolved with CLEAR when the host has acknowledged all it is owed, with
        HOST_DOWN when it failed to within the break deadline, with TOO_MANY_WAITING at once if too
        many calls of this host wait already (T17).
        """
        host = self.hosts.get(uuid)
        if host is None or host.is_clear:
            self.deliveries.out.append(Resolve(ticket, Outcome.CLEAR))
        elif len(host.waiting_calls) >= MAX_WAITING_CALLS_PER_HOST:
            self.counters["calls_refused"] += 1
            self.deliveries.out.append(Resolve(ticket, Outcome.TOO_MANY_WAITING))
        else:
            self.counters["calls_delayed"] += 1
            host.waiting_calls[ticket] = None
            deadline = now + self.settings.break_deadline_s
            self.deliveries.deadlines.add(deadline, CallOver(host, ticket))
            self.later.break_delayed(host, now)
            self.deliveries.heard_from(host, now)
        return self._take_out()

    def call_abandoned(self, uuid: str, ticket: int) -> None:
        """The caller hung up: its ticket waits no more."""
        host = self.hosts.get(uuid)
        if host is not None:
            host.waiting_calls.pop(ticket, None)

    # --- the channel ------------------------------------------------------------------------------

    def attach(
        self,
        uuid: str,
        channel: int,
        address: str,
        client: str,
        now: float,
        resumes: SessionName | None = None,
    ) -> list[Instruction] | None:
        """A host opened a channel: it is reset before anything else, and whatever it held is void.

        Unless it was suspended and still holds what it held then. That is void as well, in a way,
        until it has acknowledged the message which says that it is kept.

        Args:
            uuid: the host.
            channel: names the channel from now on.
            address: where it calls from.
            client: what it says it is.
            now: steady seconds.
            resumes: the session whose promises it still holds; None if it holds none.

        Returns:
            None if there are too many hosts already.
        """
        host = self.hosts.get(uuid)
        if host is None:
            if len(self.hosts) >= self.settings.max_hosts:
                self.counters["hosts_refused"] += 1
                return None
            host = self.deliveries.add_host(uuid, now)
        elif host.channel is not None:
            self.deliveries.out.append(CloseChannel(host.channel))
        host.channel, host.address, host.client = channel, address, client
        host.reset_done = False
        host.last_heard = now
        if host.suspended and resumes is not None and resumes == host.begun:
            host.suspended = False
            self.deliveries.send_reset(host, now, keeps=True)
        else:
            self._begin_anew(host, now)
        self.deliveries.observe("host.attached", host, cause=address)
        return self._take_out()

    def _begin_anew(self, host: Host, now: float) -> None:
        """Whatever the host held is void."""
        if host.suspended:
            self.counters["suspensions_ended"] += 1
            host.suspended = False
        host.begun = None
        # Whoever waited for acks on the old channel waits for the ack of the reset, which covers
        # them (T18).
        carried = self.deliveries.drop_owed(host)
        self.deliveries.doubts.settled(host.uuid)
        self.deliveries.toss(host)
        self.deliveries.send_reset(host, now).waits.extend(carried)

    def channel_closed(self, uuid: str, channel: int, now: float) -> list[Instruction]:
        """A channel ended. A host that held or was owed anything is VENUSDOWN.

        One that held and was owed nothing is forgotten; one that held something and was owed
        nothing is suspended if the fileserver stops.
        """
        host = self._host_of(uuid, channel)
        if host is not None:
            host.channel = None
            if host.is_clear and not host.session.promises:
                self.deliveries.forget(host)
            elif host.is_clear and self._stopping:
                self.deliveries.suspend(host, now)
            else:
                self.deliveries.mark_down(host, DownCause.CHANNEL_CLOSED, now)
        return self._take_out()

    def acked(self, uuid: str, channel: int, sequence: int, now: float) -> list[Instruction]:
        """The host's application has done what the message with this sequence told it."""
        host = self._host_of(uuid, channel)
        if host is not None:
            self.deliveries.acked(host, sequence, now)
        return self._take_out()

    def lease_renewed(self, uuid: str, channel: int, number: int, now: float) -> list[Instruction]:
        """The host asks for its channel lease to start anew (I8).

        A host that is down is reset first.
        """
        host = self._host_of(uuid, channel)
        if host is not None:
            # Told of what is marked before the answer, it does not trust that for one more lease.
            self.later.break_delayed(host, now)
            self.deliveries.renew_lease(host, number, now)
        return self._take_out()

    def _host_of(self, uuid: str, channel: int) -> Host | None:
        """The host, if this is its channel.

        What comes on a channel that was replaced counts for nothing.
        """
        host = self.hosts.get(uuid)
        return host if host is not None and host.channel == channel else None
