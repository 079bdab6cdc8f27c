"""The rules by which the client believes a reply, and by which it believes what it has.

Theory of operation (the model is Linux `fs/afs/validation.c`; the numbers are those of the protocol
comment there, adapted)
    1. A request goes out with a `Ticket`: on which generation of the channel, after which change of
    our own, and when.
    2. Its reply brings a status and, perhaps, a promise that covers it. Between the two the client
       may have been told of a break, a reset, or the outcome of a change of its own. Each of these
       wins over the reply (R10): the promise is then refused. The status may still answer whoever
       asked *before* the request was sent, because it was true at a moment between the question and
       the answer; it must not answer anyone else.
    3. A promise that was accepted is relied on while the channel is attached in the same session,
       the lease runs, and it has not expired, counted from when the request was sent.
    4. Data in the cache carries the DataVersion it was read at. It is right if, and only if, the
       status says the same DataVersion; so a void promise costs a FetchStatus, and data only if it
       really changed.
"""

from __future__ import annotations

from enum import Enum

from clientd.core.channel import ChannelPhase, ChannelState
from clientd.core.promise import Promise, PromiseOffer, Ticket


class Verdict(Enum):
    """What became of the promise in a reply."""

    ACCEPTED = "accepted"
    NONE_OFFERED = "none_offered"
    CHANNEL_CHANGED = "channel_changed"
    OTHER_EPOCH = "other_epoch"
    BROKEN_ON_THE_WAY = "broken_on_the_way"
    CHANGED_ON_THE_WAY = "changed_on_the_way"
    EXPIRED_ON_THE_WAY = "expired_on_the_way"
    OVERTAKEN = "overtaken"


def judge(
    ticket: Ticket,
    offer: PromiseOffer | None,
    *,
    channel: ChannelState,
    high_water: int,
    changed_stamp: int,
    now: float,
) -> Verdict:
    """Whether the promise in a reply can be accepted.

    Args:
        ticket: taken when the request was sent.
        offer: the CallBack in the reply; None if there was none.
        channel: the fileserver's callback channel as it is now.
        high_water: `BreakMarks.high_water` of the Fid.
        changed_stamp: the last change of our own to the Fid.
        now: steady seconds.
    """
    if offer is None:
        return Verdict.NONE_OFFERED
    if channel.phase is not ChannelPhase.ATTACHED or ticket.generation != channel.generation:
        return Verdict.CHANNEL_CHANGED
    if offer.epoch != channel.epoch:
        return Verdict.OTHER_EPOCH
    if offer.sequence <= high_water:
        return Verdict.BROKEN_ON_THE_WAY
    if ticket.stamp < changed_stamp:
        return Verdict.CHANGED_ON_THE_WAY
    if ticket.sent_at + offer.expires_in_s <= now:
        return Verdict.EXPIRED_ON_THE_WAY
    return Verdict.ACCEPTED


def accept(ticket: Ticket, offer: PromiseOffer, session: int) -> Promise:
    """The promise that an accepted offer becomes in the channel's session."""
    return Promise(
        server=ticket.server,
        session=session,
        sequence=offer.sequence,
        expires_at=ticket.sent_at + offer.expires_in_s,
    )


def holds(promise: Promise | None, channel: ChannelState, now: float) -> bool:
    """True while the promise stands, whether or not the lease lets us rely on it this moment."""
    return (
        promise is not None
        and channel.phase is ChannelPhase.ATTACHED
        and promise.session == channel.session
        and now < promise.expires_at
    )


def is_trusted(promise: Promise | None, channel: ChannelState, now: float) -> bool:
    """True while the promise may be relied on: it holds, and the lease runs (I8)."""
    return holds(promise, channel, now) and channel.trusts(now)
